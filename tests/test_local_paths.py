"""A path that names nothing on this machine is one line, and nothing is created."""

import argparse
import os
from pathlib import Path

import pytest

import convert_weights
from omfa_jax.cli import config_lib
from omfa_jax.cli.flags import parse_path, parse_path_text
from omfa_jax.cli.main import main
from omfa_jax.core.atomic_dirs import resolve_target
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.local_paths import find_path_fault
from omfa_jax.core.path_checks import (
    require_dir,
    require_file,
    require_writable_dir,
    require_writable_file,
)

ROOT = Path(__file__).parents[1]
FAULTS = {
    "gs://bucket/run": "gs:// is not supported: copy it to a disk or mount it",
    "GS://bucket/run": "gs:// is not supported",
    # what pathlib makes of it
    "gs:/bucket/run": "gs:// is not supported",
    "./gs://bucket": "gs:// is not supported",
    "s3://bucket/run": "s3:// is not supported",
    "hf://org/model": "hf:// is not supported: download it (`hf download`)",
    "https://host/a.png": "https:// is not supported: download it",
    "http://host/a.png": "http:// is not supported: download it",
    "file:///tmp/run": "write the path without file://",
    "abfss://c@a.dfs.core.windows.net/x": "abfss:// is not supported",
    "new+store://x": "new+store:// is not supported",
    "C:\\data\\raw": "this is a Windows path",
    "D:/data": "this is a Windows path",
    "\\\\server\\share": "this is a Windows path",
    "$DATA/raw": "the shell has not expanded $DATA",
    "${DATA}/raw": "the shell has not expanded ${DATA}",
    "runs/a\r": "Unix line ends",
    "runs/a\n": "control character",
    "a\0b": "control character",
    "": "it is empty",
    "   ": "it is empty",
    "~nosuchuser/x": "there is no user nosuchuser on this machine; ./~nosuchuser/x is",
}
PATHS = (
    "./~nosuchuser",
    "~.a b",
    "a",
    "./a b",
    "/tmp/a:b",
    "a=1,b",
    "$5 a",
    "runs/price$",
    "c:d",
    "~",
    "-x",
    "日本/x",
)


@pytest.mark.parametrize("text", FAULTS)
def test_a_path_that_names_nothing_here_is_refused(text):
    for kind in (parse_path, parse_path_text):
        with pytest.raises(argparse.ArgumentTypeError) as told:
            kind(text)
        assert FAULTS[text] in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("text", PATHS)
def test_other_texts_are_paths(text):
    assert find_path_fault(text) is None
    assert parse_path_text(text) == os.path.expanduser(text)


def test_home_is_expanded_where_the_shell_does_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_path("~/runs") == Path("/home/me/runs")
    config = config_lib.load_config(
        ROOT / "configs/base.py",
        ["--config.data.records=~/r", "--config.data.mixture=~/a=0.5,b=0.5,"],
    )
    assert config.data.records == "/home/me/r"
    assert config.data.mixture == "/home/me/a=0.5,b=0.5,"


@pytest.mark.parametrize(
    "words",
    [
        ["data", "build", "--raw=az://b/raw", "--out=out"],
        ["data", "build", "--raw=raw", "--out=az://b/r"],
        ["data", "build", "--raw=raw", "--out=out", "--pairs=test=az://b/pairs.txt"],
        ["data", "synthesize", "--out=az://b/r"],
        ["data", "poses", "--raw=hf://a/b"],
        ["train", "--config=configs/tiny.py", "--workdir=az://b/run"],
        ["train", "--config=gs://b/tiny.py", "--workdir=run"],
        ["train", "--config=configs/tiny.py", "--workdir=run", "--config.data.records=az://b/r"],
        ["train", "--config=configs/tiny.py", "--workdir=run", "--config.model.init=hf://a/b"],
        ["train", "--config=configs/tiny.py", "--workdir=run", "--config.data.mixture=hf://b/r=1"],
        ["sample", "--checkpoint=hf://a/b", "--task=try_off", "--out=out"],
        ["sample", "--checkpoint=x", "--task=try_off", "--out=out", "--person=https://h/a.png"],
        ["eval", "--pred=az://b/p", "--gt=gt", "--protocol=omfa", "--out=s.json"],
        ["eval", "--pred=p", "--gt=gt", "--protocol=omfa", "--out=az://b/s.json"],
        ["eval", "--checkpoint=x", "--data=r", "--task=try_on", "--out=az://b/o"],
        ["eval", "report", "az://b/s.json", "--out=r.html"],
        ["scaling", "fit", "--table=az://b/table.csv", "--out=fit.json"],
        ["demo", "--workdir=az://b/run"],
        ["convert", "import", "hf://a/b", "--out=out"],
        ["convert", "import", "model", "--out=az://b/out"],
        ["convert", "import", "model", "--out=out", "--lora=hf://a/b.safetensors:0.5"],
        ["convert", "export", "run", "--out=az://b/out"],
    ],
)
def test_no_command_takes_a_url_or_creates_anything(words, tmp_path, monkeypatch, capsys):
    words = [word.replace("configs/", f"{ROOT}/configs/") for word in words]
    monkeypatch.chdir(tmp_path)
    convert = words[0] == "convert"
    assert (convert_weights.main(words[1:]) if convert else main(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ":// is not supported" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda path: require_dir(path, "raw data set", "--raw"),
        lambda path: require_file(path, "config", "--config"),
        lambda path: require_writable_dir(path, "--out"),
        lambda path: require_writable_file(path, "--out"),
        resolve_target,
    ],
)
def test_nor_does_the_library(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("gs://b/r", Path("s3://b/r")):
        with pytest.raises(OmfaError, match=r"(gs|s3):// is not supported: copy it"):
            use(path)
    assert list(tmp_path.iterdir()) == []
