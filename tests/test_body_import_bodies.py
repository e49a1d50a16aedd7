"""`omfa data bodies` on a raw folder: what is written, kept, left out and said."""

from pathlib import Path

import body_estimates as dumps
import numpy as np
import pytest
from PIL import Image

from omfa_jax.body.body_file import load_body, read_body_source, save_body
from omfa_jax.body.body_model import FREE_BODY_FILE
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.import_bodies import find_photos
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.viton_hd import VitonHD

SIZE_PX = (96, 128)


def raw_folder(root: Path, names=("a", "b", "c")) -> Path:
    for split in ("train", "test"):
        (root / split / "image").mkdir(parents=True)
        (root / split / "cloth").mkdir()
        for name in names:
            stem = f"{split}_{name}"
            picture = Image.new("RGB", SIZE_PX, (200, 180, 160))
            picture.save(root / split / "image" / f"{stem}.jpg")
            picture.save(root / split / "cloth" / f"{stem}.jpg")
    return root


def write_params(folder: Path, names) -> dict:
    folder.mkdir(exist_ok=True)
    bodies = {}
    for i, name in enumerate(names):
        bodies[name] = dumps.some_smplx(i).replace(transl=[0, 0, 5])
        np.savez(folder / f"{name}.npz", **bodies[name].as_dict(), focal=200.0)
    return bodies


def command(*arguments) -> int:
    return main(["data", "bodies", *map(str, arguments)])


def test_bodies_are_written_kept_and_replaced(tmp_path: Path, caplog):
    raw = raw_folder(tmp_path / "raw")
    bodies = write_params(tmp_path / "in", ["train_a", "train_b", "test_a", "other"])
    arguments = ("--from", "smplx", "--in", tmp_path / "in", "--raw", raw)
    caplog.set_level("INFO")
    assert command(*arguments) == 0
    text = caplog.text
    assert "3 bodies imported, 0 kept, 0 failed" in text
    assert "1 frames have no photo: other" in text
    assert "3 photos have no body: test/image/test_b.jpg" in text
    for split, name in (("train", "train_a"), ("test", "test_a")):
        params, camera = load_body(raw / split / "smplx" / f"{name}.npz")
        np.testing.assert_array_equal(params.get_full_pose(), bodies[name].get_full_pose())
        assert (camera.width_px, camera.height_px) == SIZE_PX
        assert camera.focal_px == (200, 200) and camera.center_px == (48, 64)
    kept = raw / "train/smplx/train_a.npz"
    kept.write_bytes(b"mine")
    (raw / "train/smplx/train_b.npz").unlink()
    caplog.clear()
    assert command(*arguments, "--split", "train") == 0
    assert "1 bodies imported, 1 kept" in caplog.text and kept.read_bytes() == b"mine"
    assert command(*arguments, "--overwrite") == 0
    load_body(kept)


def test_bodies_upside_down_are_said(tmp_path: Path, caplog):
    """An identity stands on its head where y points down, as in HMR2's and other tools' files."""
    raw = raw_folder(tmp_path / "raw")
    (tmp_path / "in").mkdir()
    turns = {"train_a": 0.0, "train_b": np.pi, "train_c": np.pi / 2, "test_a": np.pi / 6}
    for name, angle in turns.items():
        body = dumps.some_smplx(0).replace(transl=[0, 0, 5], global_orient=[angle, 0, 0])
        np.savez(tmp_path / "in" / f"{name}.npz", **body.as_dict(), focal=200.0)
    caplog.set_level("INFO")
    assert command("--from", "smplx", "--in", tmp_path / "in", "--raw", raw) == 0
    said = "2 photos have a body that is upside down; unless they show that, the file's axes"
    assert said in caplog.text
    assert "forward): test/image/test_a.jpg, train/image/train_a.jpg\n" in caplog.text


def test_one_bad_file_is_listed_and_the_others_go_on(tmp_path: Path, caplog, capsys):
    raw = raw_folder(tmp_path / "raw")
    write_params(tmp_path / "in", ["train_a", "train_b", "train_c"])
    (tmp_path / "in" / "train_a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "in" / "train_b.npz", global_orient=np.zeros(3), focal=200.0)
    (raw / "train/image/train_d.jpg").write_bytes(b"no picture")
    write_params(tmp_path / "in", ["train_d"])
    caplog.set_level("INFO")
    assert command("--from", "smplx", "--in", tmp_path / "in", "--raw", raw) == 2
    assert "1 bodies imported, 0 kept, 3 failed" in caplog.text
    assert "train/image/train_a.jpg: body file" in caplog.text
    assert "train/image/train_b.jpg: missing body_pose" in caplog.text
    assert "train_d.jpg: not an image" in caplog.text
    assert "3 bodies could not be imported" in capsys.readouterr().err
    assert (raw / "train/smplx/train_c.npz").exists()


def test_photos_on_their_side_count_as_the_networks_saw_them(tmp_path: Path):
    raw = raw_folder(tmp_path / "raw", names=())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE_PX).save(raw / "train/image/x.jpg", exif=exif)
    write_params(tmp_path / "in", ["x"])
    assert command("--from", "smplx", "--in", tmp_path / "in", "--raw", raw) == 0
    camera = load_body(raw / "train/smplx/x.npz")[1]
    assert (camera.width_px, camera.height_px) == SIZE_PX[::-1]


def test_photos_are_found_in_the_other_layouts(tmp_path: Path):
    for name in ("images/m.jpg", "dresses/images/000001_0.jpg", "dresses/images/000001_1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(p.name, b.relative_to(tmp_path).as_posix()) for p, b in find_photos(tmp_path, None)]
    assert found == [("m.jpg", "smplx/m.npz"), ("000001_0.jpg", "dresses/smplx/000001_0.npz")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "chump"), "did you mean 'champ'"),
        (("--from", "smplx", "--in", "nothing"), "change --in"),
        (("--from", "smplx", "--split", "val"), "change --split"),
        (("--from", "smplx"), "no frame matches a photo"),
        (("--from", "champ", "--smpl-to-smplx", "fit"), "missing: --smplx-model"),
        (("--from", "smplx", "--hands", "fist"), "unknown hand pose"),
        (("--from", "smplx", "--frame", "3"), "--frame applies to --from amass"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path: Path, capsys, arguments, words: str):
    raw = raw_folder(tmp_path / "raw")
    write_params(tmp_path / "in", ["elsewhere"])
    defaults = {"--in": tmp_path / "in", "--raw": raw}
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    flags = [item for pair in (defaults | given).items() for item in pair]
    assert command(*flags) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_record_says_how_smpl_became_smplx(tmp_path: Path, capsys):
    raw = raw_folder(tmp_path / "raw")
    smpl = dumps.fake_smpl()[0]
    crop = dumps.Crop((48.0, 64.0), 110.0, (0.9, 0.0, 0.0))
    saved, _ = dumps.champ_dict(smpl, [(dumps.some_smpl(0), crop)], SIZE_PX)
    (tmp_path / "in").mkdir()
    dumps.save_dict(tmp_path / "in" / "train_a.npy", saved)
    arguments = ("--from", "champ", "--in", tmp_path / "in", "--raw", raw)
    assert command(*arguments) == 2
    assert "could not be imported" in capsys.readouterr().err
    assert not (raw / "train/smplx/train_a.npz").exists()
    assert command(*arguments, "--allow-pickle") == 0
    (raw / "train/pose").mkdir()
    for name in ("train_a", "train_b"):
        Image.new("RGB", SIZE_PX).save(raw / "train/pose" / f"{name}.png")
    items = VitonHD.list_items(str(raw), [])["train"]
    records = {item.key: VitonHD.read(item)[0] for item in items}
    assert [records[f"train_{n}"].body_source for n in "abc"] == ["smpl_copy21", "", ""]


def test_a_fit_by_command_lands_where_the_tool_has_the_body(tmp_path: Path):
    raw = raw_folder(tmp_path / "raw", names=("a",))
    smpl = dumps.fake_smpl(shuffled=False)[0]
    dumps.save_smpl(tmp_path / "smpl.npz", smpl)
    crop = dumps.Crop((50.0, 60.0), 110.0, (0.9, 0.1, -0.1))
    saved, pixels = dumps.champ_dict(smpl, [(dumps.some_smpl(0, shaped=True), crop)], SIZE_PX)
    dumps.save_dict(tmp_path / "train_a.npy", saved)
    files = ("--smplx-model", FREE_BODY_FILE, "--smpl-model", tmp_path / "smpl.npz")
    way = ("--smpl-to-smplx", "fit", "--correspondence", "identity", "--allow-pickle")
    arguments = ("--from", "champ", "--in", tmp_path / "train_a.npy", "--raw", raw)
    assert command(*arguments, *files, *way) == 0
    params, camera = load_body(raw / "train/smplx/train_a.npz")
    seen = dumps.imported_pixels(params, camera)[: dumps.BODY]
    np.testing.assert_allclose(seen, pixels[0][: dumps.BODY], atol=0.02)
    assert read_body_source(raw / "train/pose/train_a.png") == "smpl_fit"


def test_old_files_have_no_source(tmp_path: Path):
    (tmp_path / "pose").mkdir()
    (tmp_path / "smplx").mkdir()
    params, camera = (
        dumps.some_smplx(0),
        make_look_at_camera((0, 0, 3), (0, 0, 0), focal_px=100, width_px=96, height_px=128),
    )
    save_body(tmp_path / "smplx/a.npz", params, camera)
    assert read_body_source(tmp_path / "pose/a.png") == ""
    save_body(tmp_path / "smplx/a.npz", params, camera, source="keypoints")
    assert read_body_source(tmp_path / "pose/a.png") == "keypoints"
    np.testing.assert_array_equal(
        load_body(tmp_path / "smplx/a.npz")[0].get_full_pose(), params.get_full_pose()
    )
    assert read_body_source(tmp_path / "pose/b.png") == read_body_source(None) == ""
    with pytest.raises(OmfaError, match="did you mean 'exact'"):
        save_body(tmp_path / "smplx/a.npz", params, camera, source="exakt")
