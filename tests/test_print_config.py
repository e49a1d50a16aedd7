"""`--print-config` prints a config that reads back as itself, in every command with a config."""

from pathlib import Path

import pytest

import convert_weights
from omfa_jax.cli.config_flag import format_config_file
from omfa_jax.cli.config_lib import load_config
from omfa_jax.cli.main import main

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
    if path.stem != "__init__"
]
TINY = "configs/tiny.py"
COMMANDS = (["train"], ["plan"], ["data", "latents"], ["scaling", "plan"], ["scaling", "flops"])


def printed(capsys, *words):
    assert main([*words, "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_reads_back_as_itself(path, tmp_path):
    config = load_config(path)
    file = tmp_path / "made" / "printed.py"
    file.parent.mkdir()
    file.write_text(format_config_file(config))
    assert load_config(file).to_dict() == config.to_dict()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_overrides_are_in_it_and_no_other_flag_is_needed(words, capsys):
    plain = printed(capsys, *words, f"--config={TINY}").splitlines()
    changed = printed(capsys, *words, f"--config={TINY}", "--config.train.steps=777").splitlines()
    # one value a line, so that a diff shows the value
    differing = [(a, b) for a, b in zip(plain, changed, strict=True) if a != b]
    assert len(differing) == 1
    assert differing[0][1].strip() == "'steps': 777,"


def test_the_importer_prints_it_too(capsys):
    assert convert_weights.main(["import", f"--config={TINY}", "--print-config"]) == 0
    assert capsys.readouterr().out == printed(capsys, "train", f"--config={TINY}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "the following arguments are required: --config"),
        (["train", f"--config={TINY}", "--wrokdir=x"], "unrecognised arguments: --wrokdir=x"),
        (["train", f"--config={TINY}", "--config.train.stesp=1"], "did you mean 'steps'"),
        (["scaling", "flops"], "--print-config prints the config of --config FILE"),
    ],
)
def test_bad_flags_are_still_refused(words, told, capsys):
    assert main([*words, "--print-config"]) == 2
    shown = capsys.readouterr()
    assert told in shown.err and not shown.out


def test_without_the_flag_the_others_are_needed(capsys):
    assert main(["train", f"--config={TINY}"]) == 2
    assert "required: --workdir" in capsys.readouterr().err
