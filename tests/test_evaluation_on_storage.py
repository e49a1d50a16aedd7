"""`omfa eval` with folders and scores in object storage."""

import dataclasses

import pytest
from eval_folders import pair_of_folders
from tiny_model import make_tiny_model, save_tiny_model, write_records

from omfa_jax.cli.main import main
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.evals.prediction_sampling import claim_folder
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


def test_a_checkpoint_is_evaluated_in_a_bucket_as_on_a_disk(gs, tmp_path, capsys):
    save_tiny_model(tmp_path / "model", make_tiny_model())
    write_records(tmp_path, 2)
    for name in ("model", "records"):
        for file in (tmp_path / name).rglob("*"):
            if file.is_file():
                (gs / file.relative_to(tmp_path).as_posix()).upload(file)
    shown = []
    for place in (tmp_path, gs):
        words = [f"--checkpoint={place / 'model'}", f"--data={place / 'records'}", "--steps=1"]
        words += ["--task=try_on", "--workers=1", f"--out={place / 'out'}"]
        assert main(["eval", *words]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "PSNR" in shown[0]
    local, remote = tmp_path / "out", gs / "out"
    for folder in ("gt", "pred", "garments"):
        made = {path.name: path.read_bytes() for path in (local / folder).iterdir()}
        assert made == {path.name: path.read_bytes() for path in (remote / folder).iterdir()}
    assert read_scores(remote / "scores.json").folders.pred == f"{gs}/out/pred"
    # another seed is another run: refused, or all of the first deleted
    assert main(["eval", *words, "--seed=1"]) == 2
    assert f"{gs}/out holds images of another run (seed" in capsys.readouterr().err
    claim_folder(remote, {"seed": 1}, overwrite=True)
    left = {path.name for path in remote.iterdir()}
    # the lock's number and the values of the metrics stay
    assert left - {".lock", "scores.json.cache"} == {"run.json"}
