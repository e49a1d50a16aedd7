"""Renamed config keys and flags: one line names the new one, and what was saved is still read."""

import json
import logging
from pathlib import Path

import pytest

from configs import base
from omfa_jax.cli import config_lib
from omfa_jax.cli.config_table import TABLE
from omfa_jax.cli.flags import RENAMED_FLAGS
from omfa_jax.cli.main import main, make_parser
from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints.integrity import FINISHED, ITEMS, read_config
from omfa_jax.train.config_keys import RENAMED_KEYS, update_saved_config
from omfa_jax.train.resume import require_same_run

BASE = Path(base.__file__)
FLAGS = [(c, old, new) for c, renamed in RENAMED_FLAGS.items() for old, new in renamed.items()]
# values that are not the defaults
VALUES = {
    "train.accumulate": 2,
    "train.nonfinite": "skip",
    "optimizer.decay": "cosine",
    "data.multi_pose": 0.5,
    "data.augment.flip": 0.25,
    "checkpoint.keep": 7,
}
# the last words of old keys, in groups that never had them
WRONG_GROUPS = (
    ("log", "keep"),
    ("train", "decay"),
    ("model", "nonfinite"),
    ("data", "flip"),
    ("optimizer", "accumulate"),
)


def value_at(tree, name):
    for part in name.split("."):
        tree = tree[part]
    return tree


def make_old_config():
    """Return base's config, whole, as a version with the old keys saved it."""
    tree = base.get_config().to_dict()
    for old, new in RENAMED_KEYS.items():
        group = value_at(tree, new.rpartition(".")[0])
        del group[new.rpartition(".")[2]]
        group[old.rpartition(".")[2]] = VALUES[old]
    return tree


def write_config(path, lines):
    body = "".join(f"    {line}\n" for line in ["config = base.get_config()", *lines])
    path.write_text(f"from configs import base\n\n\ndef get_config():\n{body}    return config\n")
    return path


def test_the_tables_agree_with_the_schema_and_the_parsers():
    assert set(VALUES) == set(RENAMED_KEYS)
    for old, new in RENAMED_KEYS.items():
        assert old not in TABLE and new in TABLE
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
    last_names = [old.rpartition(".")[2] for old in RENAMED_KEYS]
    assert len(set(last_names)) == len(last_names)


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_an_old_key_is_one_line_with_the_new_one(tmp_path, capsys, old):
    new, value = RENAMED_KEYS[old], VALUES[old]
    said = f"config.{old} has been renamed to config.{new}"
    group, _, last = old.rpartition(".")
    mine = tmp_path / "mine.py"
    for lines in (
        [f"config.{old} = {value!r}"],
        [f"config.{group}['{last}'] = {value!r}"],
        [f"config.seed = int(config.{old} == 1)"],
        ["with config.unlocked():", f"    config.{old} = {value!r}"],
    ):
        with pytest.raises(OmfaError) as refused:
            config_lib.load_config(write_config(mine, lines))
        assert str(refused.value).startswith(said) and "\n" not in str(refused.value)
    workdir = tmp_path / "run"
    flags = [f"--config={BASE}", f"--workdir={workdir}", f"--config.{old}={value}"]
    assert main(["train", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"omfa train: {said}" and not workdir.exists()


def test_another_error_of_a_config_is_not_taken_for_a_renamed_key(tmp_path):
    for line in ("config.trian.steps = 1", "raise KeyError('other')", "raise AttributeError"):
        with pytest.raises(OmfaError, match="cannot be run"):
            config_lib.load_config(write_config(tmp_path / "mine.py", [line]))


def test_a_typo_in_another_group_is_not_taken_for_a_renamed_key(tmp_path):
    mine = tmp_path / "mine.py"
    for group, last in WRONG_GROUPS:
        for line in (f"config.{group}.{last} = 5", f"config.seed = config.{group}.{last}"):
            with pytest.raises(OmfaError, match="cannot be run") as refused:
                config_lib.load_config(write_config(mine, [line]))
            assert "renamed" not in str(refused.value)


def test_a_study_of_an_older_version_is_read(tmp_path, caplog):
    path = tmp_path / "run.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n"
        f"CONFIG = {make_old_config()!r}\n\n\n"
        "def get_config():\n    return ConfigDict(CONFIG).lock()\n"
    )
    config = config_lib.load_config(path).to_dict()
    for old, new in RENAMED_KEYS.items():
        assert value_at(config, new) == VALUES[old]
    expected = update_saved_config(make_old_config())
    assert json.loads(json.dumps(config)) == json.loads(json.dumps(expected))
    assert not caplog.records
    changed = config_lib.load_config(path, ["--config.train.grad_accum_steps=4"])
    assert changed.train.grad_accum_steps == 4


def test_a_run_of_an_older_version_resumes_without_a_word(tmp_path, caplog):
    step = tmp_path / "checkpoints" / "3"
    for item in ITEMS:
        (step / item).mkdir(parents=True)
    (step / FINISHED).write_text(json.dumps({"item_handlers": dict.fromkeys(ITEMS)}))
    saved = make_old_config()
    (step / "config" / "metadata").write_text(json.dumps(saved))
    names = RENAMED_KEYS.items()
    overrides = [f"--config.{new}={VALUES[old]}" for old, new in names]
    with caplog.at_level(logging.WARNING):
        require_same_run(config_lib.load_config(BASE, overrides).to_dict(), tmp_path)
    assert not caplog.records
    assert value_at(read_config(step), "checkpoint.max_to_keep") == 7
    # a value that did change is still reported, under the new name
    require_same_run(config_lib.load_config(BASE, overrides[1:]).to_dict(), tmp_path)
    assert "train.grad_accum_steps: 2 -> 1" in caplog.text
    assert update_saved_config({"seed": 0, "train": 3}) == {"seed": 0, "train": 3}
    assert saved == make_old_config()


@pytest.mark.parametrize(("command", "old", "new"), FLAGS)
def test_an_old_flag_is_one_line_with_the_new_one(capsys, command, old, new):
    words = command.split()
    ways = [[*words, old, "1"], [*words, f"{old}=1"]]
    if command == "eval":
        ways.append([*words, "--checkpoint", "x", old])
    for way in ways:
        assert main(way) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"omfa {words[0]}: {old} has been renamed to {new}")
    # the new flag is there, and the old one is not
    choose = ["--checkpoint", "x"] if command == "eval" else []
    with pytest.raises(SystemExit):
        make_parser(words[0], choose).parse_args([*words[1:], "--help"])
    listed = capsys.readouterr().out.split()
    assert new in listed and old not in listed
