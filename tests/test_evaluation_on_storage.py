"""`omfa eval` with folders and scores in object storage."""

import dataclasses
import json

import pytest
from eval_folders import pair_of_folders
from tiny_model import make_tiny_model, save_tiny_model, write_records

from omfa_jax.cli.main import main
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.evals.scores_file import read_scores


def run(folder, *flags: str) -> int:
    words = ["--pred", f"{folder / 'pred'}", "--gt", f"{folder / 'gt'}", "--protocol", "omfa"]
    out = folder / "s.json"
    return main(["eval", *words, "--metrics=psnr", "--workers=1", "--out", str(out), *flags])


@pytest.fixture
def remote(tmp_path, store):
    for path in pair_of_folders(tmp_path, count=2):
        for file in path.iterdir():
            (store / path.name / file.name).upload(file)
    return store


def test_scores_are_those_of_local_folders(remote, tmp_path, capsys, caplog):
    assert run(tmp_path) == 0
    local = capsys.readouterr().out
    assert run(remote) == 0
    assert capsys.readouterr().out == local
    here, there = read_scores(tmp_path / "s.json"), read_scores(remote / "s.json")
    assert there.folders.pred == f"{remote}/pred" and there.folders.gt == f"{remote}/gt"
    same = {"created": here.created, "folders": here.folders}
    assert dataclasses.replace(there, **same) == here
    # the values are kept beside the scores
    caplog.set_level("INFO")
    assert run(remote) == 0 and "2 of 2 examples are cached in" in caplog.text
    assert len([name for name in remote.list_tree() if name.startswith("s.json.cache/")]) == 1


def test_faults_are_one_line(remote, capsys, monkeypatch):
    def fails(*flags) -> str:
        assert run(remote, *flags) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("omfa eval:")]
        return line

    assert f"expected a folder at {remote}/none, found nothing" in fails("--pred", f"{remote}/none")
    (remote / "pred" / "000.png").write_bytes(b"no")
    # the object, and not its copy in TMPDIR
    assert f"{remote}/pred/000.png" in fails()
    judge = ["--judge-url=http://localhost:1", "--judge-model=m", "--judge-prices=0,0"]
    assert "--judge-cache FILE, or --out on a disk" in fails(*judge)
    monkeypatch.setattr(RemotePath, "write_bytes", deny)
    assert f"cannot write in {remote}: permission denied; give another folder to --out" in fails()


def deny(*_):
    raise PermissionError(13, "permission denied")


def test_a_checkpoint_and_records_in_a_bucket_have_the_losses_of_local_ones(gs, tmp_path):
    save_tiny_model(tmp_path / "model", make_tiny_model())
    write_records(tmp_path, 2)
    for name in ("model", "records"):
        for file in (tmp_path / name).rglob("*"):
            if file.is_file():
                (gs / file.relative_to(tmp_path).as_posix()).upload(file)
    found = []
    for place in (tmp_path, gs):
        out = tmp_path / f"out{len(found)}"
        words = [f"--checkpoint={place / 'model'}", f"--data={place / 'records'}", f"--out={out}"]
        words += ["--loss", "--loss-examples=2", "--loss-timesteps=4"]
        assert main(["eval", *words]) == 0
        found.append(json.loads((out / "loss.json").read_text()))
    local, remote = found
    assert remote.pop("checkpoint") == f"{gs}/model" and remote.pop("data") == f"{gs}/records"
    assert remote == {name: value for name, value in local.items() if name in remote}
