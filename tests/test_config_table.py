"""Every value of a config has a rule, and nothing that breaks one gets past load_config."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict, config_dict

from configs import base
from omfa_jax.cli import config_lib, config_table
from omfa_jax.cli.config_table import TABLE, check_config, find_row, list_leaves
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import (
    Boolean,
    Choice,
    FloatRange,
    IntRange,
    LocalPath,
    Text,
    TupleOf,
)
from omfa_jax.models import get_vae_config

ROOT = Path(__file__).parents[1]
BASE = ROOT / "configs" / "base.py"


def fresh() -> Any:
    return base.get_config()


LEAVES = dict(list_leaves(fresh()))
NAN, INF = float("nan"), float("inf")
HOSTILE = (NAN, INF, -INF, -1, -0.5, 1e300, 10**11, 10**23, 10**5000, None, "x", "", "\0", True)
HOSTILE += ("gs://b/r", object(), b"x", 1j, (), (NAN,), [None], {"a": 1}, (1, 2, 3), ("x", "x"))


def set_value(config, name, value):
    *groups, last = name.split(".")
    node = config
    for group in groups:
        node = node[group]
    # anew, for a ConfigDict converts what takes an older value's place
    with node.unlocked():
        if last in node:
            del node[last]
        node[last] = value


def is_good(value, row):
    """Say by other means than `row.read` whether a value may pass."""
    if isinstance(row, Boolean):
        return isinstance(value, bool)
    if isinstance(row, Text):
        return isinstance(value, str) and "\0" not in value
    if isinstance(row, LocalPath):
        text = (
            value.removeprefix("gs://b") if row.allow_storage and isinstance(value, str) else value
        )
        return isinstance(text, str) and ":/" not in text and text.isprintable()
    if isinstance(row, Choice):
        return isinstance(value, str) and (
            value in [*row.names] or (row.allow_empty and value == "")
        )
    if isinstance(row, TupleOf):
        return isinstance(value, tuple | list) and all(is_good(entry, row.rule) for entry in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(row, IntRange):
        return isinstance(value, int) and (
            row.minimum <= value <= row.maximum or value == row.or_value
        )
    return math.isfinite(value) and row.minimum <= value <= row.maximum


def test_every_value_has_a_row_and_every_row_a_value():
    assert [name for name in LEAVES if find_row(name) is None] == []
    names = [name.replace("try_on", "*").replace("try_off", "*") for name in LEAVES]
    assert set(TABLE) == set(names)


@pytest.mark.parametrize("name", LEAVES)
def test_no_value_passes_that_is_none_and_no_fault_is_a_traceback(name):
    row = find_row(name)
    refused = 0
    for value in HOSTILE:
        config = fresh()
        set_value(config, name, value)
        try:
            check_config(config)
        except OmfaError as error:
            refused += 1
            lines = str(error).splitlines()
            assert all(line.startswith(f"config.{name}") for line in lines), (value, lines)
            assert len(lines[0]) < 400
        else:
            found = dict(list_leaves(config))[name]
            assert is_good(found, row), (name, value)
            assert value is not True or isinstance(row, Boolean)
            if isinstance(row, FloatRange):
                assert type(found) is float
    assert refused >= len(HOSTILE) - 8
    # what the base says passes, and stays
    config = fresh()
    check_config(config)
    assert dict(list_leaves(config)) == LEAVES


def test_whole_numbers_are_numbers_and_lists_are_tuples():
    config = fresh()
    set_value(config, "optimizer.learning_rate", 1)
    set_value(config, "canvas.person", [64, 48])
    set_value(config, "data.augment.scale", (1, 2))
    check_config(config)
    assert type(config.optimizer.learning_rate) is float
    assert config.canvas.person == (64, 48)
    assert [type(value) for value in config.data.augment.scale] == [float, float]


def test_all_faults_are_told_at_once_and_names_have_hints():
    config = fresh()
    set_value(config, "optimizer.learning_rate", INF)
    set_value(config, "train.steps", None)
    set_value(config, "optimizer.name", "adam")
    set_value(config, "train.step", 7)
    set_value(config, "data.augment", 3)
    with config.unlocked():
        del config["seed"]
        config.tasks.joint = ConfigDict({"noised": ("garment", "persn"), "weight": 1})
    with pytest.raises(OmfaError) as told:
        check_config(config)
    lines = str(told.value).splitlines()
    expected = (
        "config.data.augment: expected a group of values, got 3",
        "config.optimizer.learning_rate: expected a number above 0 to 10, got inf",
        "config.optimizer.name: expected one of adamw, muon, got 'adam'; did you mean 'adamw'?",
        "config.seed is missing: start from base.get_config() (configs/base.py)",
        "config.tasks.joint.prompt is missing",
        "config.train.steps: expected an integer from 1 to 2147483647, got None",
        "unknown value 'config.train.step'; did you mean 'config.train.steps'",
        "config.tasks.joint.noised: expected a tuple of 1 to 3 different, each one of",
    )
    for text in expected:
        assert sum(line.startswith(text) for line in lines) == 1, (text, lines)
    assert len(lines) == len(expected)


def test_a_config_of_ones_own_may_have_other_tasks():
    config = fresh()
    with config.unlocked():
        del config.tasks["try_off"]
        config.tasks.joint = ConfigDict(
            {"noised": ("garment", "person"), "weight": 1, "prompt": "both"}
        )
    check_config(config)
    tasks = {
        task.name: task
        for task in config_lib.make_diffusion_settings(config, get_vae_config("sdxl")).tasks
    }
    assert tasks["joint"].weight == 1.0 and set(tasks) == {"joint", "try_on"}
    set_value(config, "tasks.joint.weight", 0)
    set_value(config, "tasks.try_on.weight", 0)
    with pytest.raises(OmfaError, match="all weights are 0"):
        check_config(config)
    with config.unlocked():
        config.tasks = ConfigDict()
    with pytest.raises(OmfaError, match=r"config\.tasks: expected a group"):
        check_config(config)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def get_config(): return None", "must return the ConfigDict .*got NoneType"),
        ("def get_config(): return {'seed': 0}", "must return the ConfigDict .*got dict"),
        ("import sys\ndef get_config(): sys.exit(0)", "cannot be run: SystemExit: 0"),
        ("raise SystemExit", "cannot be run: SystemExit"),
        ("def get_config(size): return size", "cannot be run: TypeError: .*argument"),
        ("def get_config(:", "cannot be run: SyntaxError"),
        ("x = 1", r"has no get_config\(\)"),
        ("get_config = 3", r"has no get_config\(\)"),
        ("raise ValueError('two\\nlines')", "cannot be run: ValueError: two lines"),
        ("def get_config(): return get_config()", "cannot be run: RecursionError"),
        ("from ml_collections import ConfigDict as get_config", r"config\.seed is missing"),
        ("raise BaseException('x')", "cannot be run: BaseException: x"),
        ("c.tasks[3] = c.seed", "is not a tree of names and values"),
        ("c.model.me = c", "is not a tree of names and values"),
        ("\0", "cannot be run"),
    ],
)
def test_a_config_file_that_gives_no_config_is_one_line(tmp_path, body, said):
    path = tmp_path / "mine.py"
    if body.startswith("c."):
        start = "from configs import base\n\ndef get_config():\n    c = base.get_config()\n"
        body = f"{start}    with c.unlocked():\n        {body}\n    return c"
    path.write_text(body + "\n")
    with pytest.raises(OmfaError, match=said) as told:
        config_lib.load_config(path)
    assert "mine.py" in str(told.value) or said.startswith("config")


def test_a_value_that_is_required_and_a_file_that_is_no_program(tmp_path):
    config = ConfigDict({"seed": config_dict.required_placeholder(int)})
    with pytest.raises(OmfaError, match="required"):
        check_config(config)
    text = tmp_path / "config.yaml"
    text.write_text("seed: 0\n")
    with pytest.raises(OmfaError, match=r"expected a Python file \(\.py\)"):
        config_lib.load_config(text)


def test_overrides_that_are_no_values(caplog):
    for override, said in {
        "--config.seed": "set as --config.a.b=value",
        "--config.seed=": "config.seed: expected int, got ''",
        "--config.=3": "unknown config value",
        "--config.seed=" + "9" * 5000: "config.seed: expected int, got '999.*999'",
        "--config.seed=" + "(" * 100_000: "config.seed: expected int",
        "--config.seed=1e23": "config.seed: expected int",
        "--config.optimizer.learning_rate=" + "9" * 400: "expected float",
        "--config.optimizer.learning_rate=nan": "expected float, got 'nan'",
        "--config.optimizer.learning_rate=-1": "expected a number above 0 to 10, got -1.0",
        "--config.optimizer.learning_rate=1e999": "expected a number above 0 to 10, got inf",
        "--config.train.batch_size=100000000000": "from 1 to 1048576, got 100000000000",
    }.items():
        with pytest.raises(OmfaError, match=said) as told:
            config_lib.load_config(BASE, [override])
        assert len(str(told.value)) < 300
    assert not caplog.records
    twice = ["--config.seed=1", "--config.seed=2", "--config.train.steps=9"]
    config = config_lib.load_config(BASE, twice)
    assert config.seed == 2 and "--config.seed is given as 1 and as 2" in caplog.text
    assert "the run ends during warm-up" in caplog.text


def test_the_check_comes_before_anything_is_made(tmp_path):
    """Through the real command: one line, status 2, no workdir."""
    workdir = tmp_path / "workdir"
    rate = "--config.optimizer.learning_rate=1e999"
    flags = ["train", f"--config={BASE}", f"--workdir={workdir}", rate]
    command = [sys.executable, "-m", "omfa_jax.cli.main", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if line.startswith("omfa train:")]
    assert done.returncode == 2 and not workdir.exists() and len(said) == 1, done.stderr
    assert "config.optimizer.learning_rate: expected a number above 0 to 10, got inf" in said[0]
    assert "Traceback" not in done.stderr


def test_no_group_is_taken_for_a_value():
    assert not config_table.GROUPS & set(TABLE)


def test_a_config_from_before_a_switch_has_what_held_then():
    """A study's configs are whole, and outlive the version that planned them."""
    config = fresh()
    with config.unlocked():
        del config.mesh["allow_replicated"], config.model["ignore_scheduler"]
    check_config(config)
    assert config.mesh.allow_replicated is False and config.model.ignore_scheduler is False


def test_a_frozen_config_is_a_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import FrozenConfigDict\nfrom configs import base\n\n"
        "def get_config():\n    return FrozenConfigDict(base.get_config())\n"
    )
    assert config_lib.load_config(path).to_dict() == config_lib.load_config(BASE).to_dict()


@pytest.mark.parametrize("rate", [5e-324, 1e-320, 1e-46])
def test_what_is_zero_on_a_device_is_no_rate(rate):
    config = fresh()
    config.optimizer.learning_rate = rate
    with pytest.raises(
        OmfaError, match=r"config\.optimizer\.learning_rate: expected a number above 0"
    ):
        check_config(config)
