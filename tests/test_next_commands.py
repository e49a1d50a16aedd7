"""At its end training says where things are; its next commands are complete and run as printed."""

import shlex

import pytest

import convert_weights
from omfa_jax.cli import next_commands
from omfa_jax.cli.config_lib import load_config
from omfa_jax.cli.main import choose_module, make_parser
from omfa_jax.cli.sample import REQUIRED_INPUTS


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Return the lines on a run in a folder with a space, with the manifest of its data."""

    def lines(*flags, splits=("train", "test"), kind="images"):
        monkeypatch.setattr(
            next_commands,
            "read_manifest",
            lambda _: {"splits": dict.fromkeys(splits), "kind": kind},
        )
        monkeypatch.setattr(next_commands, "find_newest_complete_step", lambda *_, **__: 4300)
        config = load_config("configs/tiny.py", ["--config.data.records=my records", *flags])
        return next_commands.format_end(config, tmp_path / "my run")

    return lines


def parse(line):
    """Parse a printed command with the parser of its program."""
    words = shlex.split(line.removeprefix("next: "))
    if words[0] == "omfa":
        module, rest = choose_module(words[1], words[2:])
        assert module
        return make_parser(words[1], words[2:]).parse_args(rest)
    assert words[:2] == ["python", "convert_weights.py"]
    return convert_weights._parser().parse_args(words[2:])


def test_where_things_are_and_commands_that_parse(describe, tmp_path):
    where, *commands = describe()
    run = tmp_path / "my run"
    assert where == f"trained to step 4300: {run}, last checkpoint {run}/checkpoints/4300"
    sample, score, export = map(parse, commands)
    assert sample.checkpoint == score.checkpoint == str(run)
    assert sample.task in REQUIRED_INPUTS and sample.garment and sample.person
    assert (score.data, score.task, score.split) == ("my records", "try_on", "test")
    assert str(export.checkpoint) == str(run)


def test_commands_fit_the_tasks_and_the_data(describe):
    only_off = ("--config.tasks.try_on.weight=0.0", "--config.tasks.try_off.weight=1.0")
    sample, score, _ = map(parse, describe(*only_off, splits=("train", "val"))[1:])
    assert sample.task == "try_off" and sample.garment is None
    assert (score.task, score.split) == ("try_off", "val")
    score = parse(describe(kind="latents")[2])
    assert score.loss and score.task is None
    # nothing is held out: there is nothing to score
    assert len(describe(splits=("train",))) == 3


def test_a_vae_is_for_a_unet_to_train_on(describe, tmp_path):
    lines = describe("--config.objective=autoencoder")
    assert len(lines) == 2
    assert f"--config.model.init='{tmp_path}/my run/model'" in lines[1]
    assert lines[0].startswith("trained to step 4300")
