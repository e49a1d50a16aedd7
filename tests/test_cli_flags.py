"""No flag of any command takes a number that is none, or a path that names nothing."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

import convert_weights
from omfa_jax.cli.datasets import parse_pairs_text
from omfa_jax.cli.flags import (
    BoundedValue,
    HelpFormatter,
    Parser,
    parse_any_path,
    parse_any_path_text,
    parse_path,
    parse_path_text,
)
from omfa_jax.cli.main import COMMANDS, choose_module, main, make_parser
from omfa_jax.core.errors import OmfaError

# all that `module_for` leads to
CHOSEN = {"eval": ([], ["--checkpoint", "x"], ["report"]), "sample": ([], ["--pairs", "x"])}
NONE = ("nan", "NaN", "inf", "-inf", "1e999", "-1e999", "-1", "9" * 400, "9" * 5000, "")
NONE += (" ", "x", "1j", "0x10", "1,5", "True", "None")
PATHS = ("DIR", "FILE", "IMAGE", "JSON", "PNG", "PATH", "RAW", "STUDY", "SRC", "CHECKPOINT")
# fields, not a file
NO_PATHS = ("--judge-extra",)


def list_actions(parser, name):
    assert isinstance(parser, Parser), f"{name}: faults would be a page of usage"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from list_actions(inner, f"{name} {word}")
        elif action.nargs != 0:
            flag = action.option_strings[0] if action.option_strings else action.dest
            yield f"{name} {flag}", action


def all_actions():
    found = dict(list_actions(convert_weights._parser(), "convert_weights.py"))
    for command in COMMANDS:
        for words in CHOSEN.get(command, ([],)):
            found |= list_actions(make_parser(command, words), " ".join([command, *words]))
    return found


ACTIONS: dict[str, Any] = all_actions()


def is_path(name, action):
    words = action.metavar if isinstance(action.metavar, str) else ""
    ends = words.split(".")[0] in PATHS or words in ("A", "B")
    return ends and not name.endswith(NO_PATHS)


def test_the_walk_meets_all_commands():
    told = {name.rsplit(" ", 1)[0] for name in ACTIONS}
    assert {"eval report", "scaling fit", "data synthesize", "convert_weights.py import"} <= told
    assert len(ACTIONS) > 150


def test_every_number_is_one_and_within_bounds():
    numbers = {
        name: action for name, action in ACTIONS.items() if isinstance(action.type, BoundedValue)
    }
    assert len(numbers) > 60
    for name, action in numbers.items():
        for text in NONE:
            with pytest.raises(argparse.ArgumentTypeError, match="expected") as told:
                print(name, action.type(text))
            assert len(str(told.value)) < 200
        if action.default is not None and action.default != float("inf"):
            assert action.type.row.read(action.default) == action.default, name


def test_every_flag_with_a_default_number_has_such_a_type():
    for name, action in ACTIONS.items():
        assert action.type not in (int, float), name
        if isinstance(action.default, int | float) and not isinstance(action.default, bool):
            assert isinstance(action.type, BoundedValue), name


LOCAL_TYPES = (parse_path_text, parse_path)
ANY_TYPES = (parse_any_path_text, parse_any_path, parse_pairs_text)


def test_every_path_names_something():
    paths = {name: action for name, action in ACTIONS.items() if is_path(name, action)}
    assert len(paths) > 60
    for name, action in paths.items():
        assert action.type in (*LOCAL_TYPES, *ANY_TYPES), name
        for text in ("", "a\0b", "hf://a/b", "gs://", *["gs://b/r"] * (action.type in LOCAL_TYPES)):
            with pytest.raises(argparse.ArgumentTypeError, match="name of a file or folder"):
                action.type(text)
        assert action.default in (None, [], "runs/demo", "samples"), name


def test_folders_for_writing_are_paths():
    for name, action in ACTIONS.items():
        if name.endswith((" --out", " --workdir", " --raw", " --records", " --model", " --config")):
            assert action.type in (*LOCAL_TYPES, *ANY_TYPES), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--config", "configs/tiny.py", "--workdir", ""], "--workdir: expected the name"),
        (["train", "--config", "", "--workdir", "x"], "--config: expected the name"),
        (["train", "--workdir", "x"], "required: --config (see omfa train --help)"),
        (
            ["sample", "--task", "try_on", "--guidance", "nan"],
            "--guidance: expected a number from 0",
        ),
        (["data", "show", "--count", "0"], "--count: expected an integer from 1 to"),
        (["data", "build", "--split-shares", "0.5", "nan", "0.5"], "--split-shares: expected"),
        (["data", "sow"], "invalid choice: 'sow'"),
        (["scaling", "fit", "--max-loss=inf"], "--max-loss: expected a number above 0"),
    ],
)
def test_a_fault_is_one_line_and_status_2(words, said, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"omfa {words[0]}: ") and said in line


@pytest.mark.parametrize("scale", ["nan", "0", "-1", "inf", "1e999", "x"])
def test_a_vae_scale_that_is_none_is_refused(scale, tmp_path, capsys):
    words = ["import", "absent", "--out", str(tmp_path / "out"), f"--vae-scale={scale}"]
    assert convert_weights.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--vae-scale: expected a number above 0 to 1000, got" in line
    assert not (tmp_path / "out").exists()


def test_flags_of_the_main_commands_are_described():
    commands = ("demo", "train", "sample")
    named = {name: a for name, a in ACTIONS.items() if name.split(" ")[0] in commands}
    assert len(named) > 25
    for name, action in named.items():
        words = (action.help or "").split(" ")
        # lower case at the start, but for names such as SMPL-X and OpenPose
        assert words[0] and (words[0][:1].islower() or words[0] in ("SMPL-X", "OpenPose")), name
        assert not action.help.endswith("."), name


def test_help_shows_defaults_once():
    parser = Parser(prog="x")
    parser.add_argument("--given", default=3, help="a number")
    parser.add_argument("--named", default=4, help="a number (default: four)")
    parser.add_argument("--bracketed", default=0.5, help="a share (0.5)")
    parser.add_argument("--switch", action="store_true", help="switch it on")
    parser.add_argument("--absent", help="a text")
    text = parser.format_help()
    for shown in ("a number (default: 3)", "a number (default: four)", "a share (0.5)"):
        assert shown in text
    assert "a text (default: none)" in text
    assert text.count("default") == 3


def test_help_is_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0 and "--workdir DIR" in capsys.readouterr().out
    with pytest.raises(OmfaError, match=r"see omfa train --help"):
        make_parser("train").parse_args(["--config"])


def test_every_flag_with_a_value_says_its_default():
    formatter = HelpFormatter("omfa")
    lacking = [
        name
        for name, action in ACTIONS.items()
        if action.option_strings
        and not action.required
        and action.default is not argparse.SUPPRESS
        and "default" not in (text := formatter._get_help_string(action) or "")
        and f"({action.default})" not in text
    ]
    assert not lacking


def test_the_three_modes_of_eval_are_on_the_first_screen(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    first = "\n".join(capsys.readouterr().out.splitlines()[:10])
    assert all(mode in first for mode in ("--pred DIR", "--checkpoint DIR", "omfa eval report"))


def test_the_table_of_storage_says_what_the_flags_take():
    text = (Path(__file__).parents[1] / "docs" / "storage.md").read_text()
    row = r"^\| `(?:omfa )?((?:\w|convert_weights\.py)[\w. -]+)` \|([^|]*)\|([^|]*)\|$"
    found = re.findall(row, text, re.MULTILINE)
    assert len(found) > 10
    for command, remote, local in found:
        variant = f"{command} x" if "--" in command else command
        for flags, types in ((remote, ANY_TYPES), (local, LOCAL_TYPES)):
            for flag in re.findall(r"`(--[\w-]+)`", flags):
                assert ACTIONS[f"{variant} {flag}"].type in types, (command, flag)


@pytest.mark.parametrize(
    "way", [["--beam-options", "--runner=X --n=2"], ["--beam-options=--runner=X --n=2"]]
)
def test_a_flag_whose_value_is_flags_takes_them(way):
    words = ["build", "--raw", "r", "--out", "o", "--runner", "beam", *way, "--shard-records", "3"]
    options = make_parser("data", words).parse_args(choose_module("data", words)[1])
    assert options.beam_options == "--runner=X --n=2"
    assert (options.runner, options.shard_records) == ("beam", 3)
