"""Raw data sets in object storage: what is made of them there has the bytes of that on a disk."""

import shutil

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.fit import fitter
from omfa_jax.body.fit.fit_quality import FitReport
from omfa_jax.body.fit.fit_result import FitResult
from omfa_jax.body.landmarks import PersonLandmarks, landmark_folder
from omfa_jax.cli.main import main
from omfa_jax.core.remote_dirs import upload_folder
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.synthetic.world_writer import write_world


def read_all(folder) -> dict[str, bytes]:
    if isinstance(folder, RemotePath):
        tree = (name for name in folder.list_tree() if ".lock/" not in name)
        return {name: (folder / name).read_bytes() for name in tree}
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.write_raw(tmp_path_factory.mktemp("raw"), {"train": 3, "test": 2})


@pytest.mark.parametrize("layout", ["viton_hd", "deepfashion_multimodal", "dresscode"])
def test_records_are_built_from_a_bucket(layout, raw, tmp_path, gs):
    if layout != "viton_hd":
        raw = tmp_path / "raw"
        size = {"height_px": 32, "width_px": 32, "supersample": 1}
        write_world(raw, seed=1, counts={"train": 2, "test": 1}, layout=layout, **size)
    upload_folder(raw, gs / "raw")
    build_records(raw, tmp_path / "here", shard_records=2)
    assert main(["data", "build", "--raw", str(gs / "raw"), "--out", str(tmp_path / "there")]
         + ["--shard-records", "2"]) == 0  # fmt: skip
    assert read_all(tmp_path / "there") == read_all(tmp_path / "here")


def test_each_store_is_built_from_and_checked(store, raw, tmp_path, caplog):
    upload_folder(raw, store / "raw")
    (store / "clean.txt").write_text("00000_00.jpg\n")
    clean = ["--clean", str(store / "clean.txt")]
    main(["data", "build", "--raw", str(store / "raw"), "--out", str(store / "out"), *clean])
    (tmp_path / "clean.txt").write_text("00000_00.jpg\n")
    build_records(raw, tmp_path / "here", item_options={"clean": tmp_path / "clean.txt"})
    assert read_all(store / "out") == read_all(tmp_path / "here")


def test_no_file_of_a_bucket_is_asked_for_twice(gs, raw, tmp_path, monkeypatch):
    upload_folder(raw, gs / "raw")
    listed, asked, read = [], [], []
    for name, calls in (("ls", listed), ("info", asked), ("cat_file", read)):
        call = getattr(gs.fs, name)

        def count(path, *args, _call=call, _calls=calls, **options):
            _calls.append(str(path))
            return _call(path, *args, **options)

        monkeypatch.setattr(gs.fs, name, count)
    build_records(str(gs / "raw"), tmp_path / "here")
    # in test a garment is also somebody's other one
    photos = [path for path in read if "/train/" in path]
    assert len(photos) == len(set(photos)) > 0
    assert not [path for path in asked if path.endswith((".jpg", ".png", "_keypoints.json"))]
    # to find items, for their stamps, and for folders of pose maps
    assert max(listed.count(path) for path in listed) <= 3


def run_on_both(arguments, here, there):
    """Run `omfa data` with RAW as a folder of a disk, and as one in a bucket."""
    for raw in (here, there):
        words = [word.replace("RAW", str(raw)) for word in arguments.split()]
        assert main(["data", *words]) == 0


def test_a_world_is_written_to_a_bucket(gs, tmp_path):
    arguments = "synthesize --out RAW --train 1 --height 32 --width 32 --processes 1"
    run_on_both(arguments, tmp_path / "raw", gs / "raw")
    assert read_all(gs / "raw") == read_all(tmp_path / "raw")
    before = (gs / "raw/world.json").stat().st_mtime
    assert before > max((gs / "raw" / name).stat().st_mtime for name in ("train_pairs.txt",))


@pytest.fixture
def quick_tools(monkeypatch):
    """One person in every photo, whose body is the neutral one: no network, no fit."""
    rows = np.linspace(0.1, 0.9, 33)
    person = PersonLandmarks(
        points_px=np.stack([48 * rows, 64 * rows], 1),
        world_m=np.zeros((33, 3)),
        visibility=rows,
        presence=rows,
        score=0.9,
        box_px=(4.0, 4.0, 44.0, 60.0),
        mask=np.zeros((64, 48)),
    )
    camera = make_look_at_camera(
        (0, -0.4, 4), (0, -0.4, 0), focal_px=90.0, width_px=48, height_px=64
    )
    report = FitReport(25, 1.0, 1.0, 0.01, 0.01, 50.0, True, "")
    result = FitResult(make_neutral_params(), camera, report)
    monkeypatch.setattr(landmark_folder, "find_people", lambda photo: [person])
    monkeypatch.setattr(fitter.Fitter, "__init__", lambda self, *args: None)
    monkeypatch.setattr(fitter.Fitter, "__call__", lambda self, rows, sizes: [result] * len(sizes))


def test_what_is_made_of_a_bucket_is_that_of_a_disk(gs, raw, tmp_path, quick_tools):
    here, there = tmp_path / "raw", gs / "raw"
    tiny.write_raw(here, {"train": 1, "test": 1})
    for split in ("train", "test"):
        shutil.rmtree(here / split / "pose")
    upload_folder(here, there)
    fit = "fit --raw RAW --split test --batch-size 1"
    run_on_both(fit, here, there)
    for arguments in (
        "keypoints --raw RAW --processes 1 --overwrite",
        "poses --raw RAW --processes 1 --overwrite",
        "bodies --from smplx --in RAW/test/smplx --raw RAW --overwrite --hands mean",
        "duplicates --raw RAW --out RAW/duplicates.json --processes 1",
        "show --raw RAW --out RAW/keypoints.png",
        "poses --poses t_pose --out RAW/targets --size 24x32",
        "build --raw RAW --out RAW/records --clean RAW/duplicates.json",
        "show --records RAW/records --out RAW/records.png --count 1",
    ):
        run_on_both(arguments, here, there)
    assert read_all(there) == read_all(here)
    changed = {name: (there / name).stat().st_mtime for name in read_all(there)}
    # a second run keeps what is there
    run_on_both(fit, here, there)
    run_on_both("keypoints --raw RAW --processes 1", here, there)
    again = {name: (there / name).stat().st_mtime for name in read_all(there)}
    kept = [name for name in again if not name.endswith("report.json")]
    assert [name for name in kept if again[name] != changed[name]] == []
