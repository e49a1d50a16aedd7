"""The kind of a raw data set: found by its folders and said, asked for where it is not clear."""

import logging

import pytest

from omfa_jax.cli.main import COMMANDS, main, make_parser
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import BUILDERS
from omfa_jax.data.builders.raw_layouts import resolve_dataset

FOLDERS = {
    "viton_hd": "test/image",
    "dresscode": "lower_body/images",
    "deepfashion_multimodal": "images",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_one_kind_is_found_and_said(tmp_path, caplog, name):
    (tmp_path / FOLDERS[name]).mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        assert resolve_dataset(tmp_path, None, BUILDERS) == name
    assert caplog.messages == [f"{tmp_path} has the layout of {name} (--dataset chooses another)"]


def test_two_kinds_are_asked_for(tmp_path):
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(OmfaError) as told:
        resolve_dataset(tmp_path, None, BUILDERS)
    assert "--dataset viton_hd or --dataset dresscode or --dataset deepfashion" in str(told.value)
    assert resolve_dataset(tmp_path, "dresscode", BUILDERS) == "dresscode"


def test_no_kind_and_an_unknown_one(tmp_path):
    with pytest.raises(OmfaError, match="expected the layout of a data set"):
        resolve_dataset(tmp_path, None, BUILDERS)
    with pytest.raises(OmfaError, match="did you mean 'viton_hd'"):
        resolve_dataset(tmp_path, "viton-hd", BUILDERS)


def test_every_command_has_the_same_flag():
    parser = make_parser("data")
    actions = parser._subparsers._group_actions[0].choices  # type: ignore[union-attr,index]
    for command in ("build", "check", "duplicates", "fit"):
        defaults = vars(actions[command].parse_args(NEEDED[command]))
        assert defaults["dataset"] is None, command
    assert "data" in COMMANDS


NEEDED = {
    "build": ["--raw=r", "--out=o"],
    "check": ["--raw=r"],
    "duplicates": ["--raw=r", "--out=o.json"],
    "fit": ["--raw=r"],
}


@pytest.mark.parametrize(
    ("words", "old"),
    [
        (["fit", "--raw=r", "--keypoints=dresscode"], "--keypoints"),
        (["fit", "--raw=r", "--keypoints", "dresscode"], "--keypoints"),
        (["synthesize", "--out=o", "--layout", "dresscode"], "--layout"),
    ],
)
def test_the_old_flags_are_one_line(capsys, words, old):
    assert main(["data", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert told == (
        f"omfa data: {old} has been renamed to --dataset (see omfa data {words[0]} --help)"
    )


def test_synthesize_makes_what_was_asked(tmp_path):
    size = ["--height=48", "--width=36", "--processes=1"]
    assert main(["data", "synthesize", f"--out={tmp_path / 'raw'}", "--train=2", *size]) == 0
    counts = {path.parent.name: len([*path.iterdir()]) for path in tmp_path.glob("raw/*/image")}
    assert counts == {"train": 2}


def test_synthesize_without_a_number_asks_for_one(tmp_path, capsys):
    assert main(["data", "synthesize", f"--out={tmp_path / 'raw'}"]) == 2
    assert "expected at least one person" in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()
