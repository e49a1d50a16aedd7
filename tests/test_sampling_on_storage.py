"""`omfa sample` and its lists with the checkpoint, the photos and the pictures on gs://."""

import json

import pytest
import tiny_viton as tiny
from tiny_model import make_tiny_model, save_tiny_model

from omfa_jax.cli.main import main
from omfa_jax.core import append_only
from omfa_jax.core.images import read_upright_size, write_image
from omfa_jax.core.npz_reader import read_npy

PAIRS = ["00000_00.jpg 00001_00.jpg", "00001_00.jpg 00000_00.jpg", "00001_00.jpg 00001_00.jpg"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A model and a raw split with a list of pairs."""
    folder = tmp_path_factory.mktemp("local")
    save_tiny_model(folder / "model", make_tiny_model())
    raw = tiny.write_raw(folder / "raw", {"test": 2}) / "test"
    (raw / "pairs.txt").write_text("\n".join(PAIRS) + "\n")
    return folder


@pytest.fixture
def remote(local, gs):
    for file in [*local.glob("model/**/*"), *local.glob("raw/**/*")]:
        if file.is_file():
            (gs / file.relative_to(local).as_posix()).upload(file)
    return gs


def read(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".png", ".npz")}


def list_words(place, out) -> list[str]:
    raw = place / "raw" / "test"
    words = ["sample", f"--checkpoint={place / 'model'}", f"--pairs={raw / 'pairs.txt'}"]
    words += [f"--persons={raw / 'image'}", f"--garments={raw / 'cloth'}", f"--out={out}"]
    return [*words, "--steps=1", "--rows-per-device=2"]


@pytest.fixture(scope="module")
def pictures(local):
    assert main(list_words(local, local / "out")) == 0
    return read(local / "out")


def test_one_picture_has_the_bytes_of_a_local_one(local, remote, tmp_path):
    for place, out in ((local, tmp_path / "out"), (remote, remote / "out")):
        raw = place / "raw" / "test"
        words = [f"--checkpoint={place / 'model'}", f"--out={out}", "--steps=1"]
        words += [f"--person={raw / 'image' / '00000_00.jpg'}"]
        words += [f"--garment={raw / 'cloth' / '00001_00.jpg'}"]
        assert main(["sample", *words]) == 0
    made = read(remote / "out")
    assert made == read(tmp_path / "out") and {"try_on_00.png", "sheet.png"} <= made.keys()
    facts = json.loads((remote / "out" / "try_on.json").read_text())
    # what lies beside a photo is found there, too
    assert facts["inputs"]["person"] == f"{remote}/raw/test/image/00000_00.jpg"
    assert facts["inputs"]["pose"].startswith(f"{remote}/raw/test/pose/")
    assert read_upright_size(remote / "out" / "try_on_00.png") == tuple(
        facts["images_px"]["try_on_00.png"]
    )


def test_a_list_stopped_at_any_picture_is_finished_with_the_same_bytes(
    pictures, remote, monkeypatch, capsys
):
    out, made = remote / "out", []

    def stop(path, image):
        made.append(path)
        if len(made) == 2:
            raise KeyboardInterrupt
        write_image(path, image)

    # no flush at the end either: as kill -9 leaves it
    with monkeypatch.context() as patch:
        patch.setattr("omfa_jax.sampling.pairs_sampling.write_image", stop)
        patch.setattr(append_only.AppendOnlyFile, "close", lambda self: None)
        assert main(list_words(remote, out)) == 130
    assert (out / "pairs.json").is_file() and 0 < len(read(out)) < len(PAIRS)
    assert main(list_words(remote, out)) == 0
    assert read(out) == pictures
    assert [p.name for p in out.iterdir() if p.name.startswith(".pictures")] == []
    # finished: nothing is made again
    monkeypatch.setattr("omfa_jax.sampling.pairs_sampling.write_image", stop)
    assert main(list_words(remote, out)) == 0
    capsys.readouterr()
    assert main([*list_words(remote, out), "--seed=9"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"omfa sample: {out} holds pictures of another run (seed")


def test_failures_are_listed_in_the_bucket(pictures, remote, capsys):
    (remote / "raw" / "test" / "cloth" / "00000_00.jpg").unlink()
    assert main(list_words(remote, remote / "out")) == 2
    assert "1 of 3 pictures failed" in capsys.readouterr().err
    assert "00001_00.jpg 00000_00.jpg" in (remote / "out" / "failed_pairs.txt").read_text()
    assert len(read(remote / "out")) == 2


def test_a_url_that_leads_nowhere_is_one_line(remote, capsys, tmp_path):
    (remote / "bad.npz").write_bytes(b"no")
    cases = {
        "no model at": [f"--checkpoint={remote}/modle", f"--garment={remote}/g.jpg"],
        f"{remote}/g.jpg: expected an image file, found nothing": [f"--garment={remote}/g.jpg"],
        "expected gs://BUCKET/FOLDER": ["--garment=gs://", "--pose=x.npz"],
        f"body file {remote}/bad.npz": [
            f"--garment={remote}/raw/test/cloth/00001_00.jpg",
            f"--pose={remote}/bad.npz",
        ],
    }
    for text, words in cases.items():
        face = f"--face={remote}/raw/test/image/00000_00.jpg"
        words = [f"--checkpoint={remote}/model", face, f"--out={tmp_path / 'out'}", *words]
        assert main(["sample", *words]) == 2
        error = capsys.readouterr().err.splitlines()
        assert text in error[-1] and not any("Traceback" in line for line in error), error
    with pytest.raises(FileNotFoundError):
        read_npy(remote / "none.npy")
