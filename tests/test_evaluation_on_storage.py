"""`omfa eval` with folders and scores in object storage."""

import dataclasses

import pytest
from eval_folders import pair_of_folders

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
