"""GPU memory: every command sets the fraction that `omfa plan` assumes, unless the user did."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omfa_jax.cli import main as entry
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel import xla_flags
from omfa_jax.parallel.hardware import USABLE_FRACTION
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.parallel.xla_flags import (
    GPU_FLAGS,
    LEGACY_MEM_FRACTION,
    MEM_FRACTION,
    TPU_FLAGS,
    get_usable_fraction,
    reserve_gpu_memory,
    set_xla_flags,
)
from omfa_jax.planning import aot
from omfa_jax.planning import plan as planning

ROOT = Path(__file__).parents[1]
MEMORY = (MEM_FRACTION, LEGACY_MEM_FRACTION, xla_flags.PREALLOCATE, xla_flags.ALLOCATOR)
# what JAX's GPU plugin is told, by the function that reads the environment when a backend starts
ASKED = """
import json, os, sys, types
from omfa_jax.cli import main as entry
seen = {}
def run(options):
    assert "jax" not in sys.modules
    seen[name] = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
before = dict(os.environ)
command = types.SimpleNamespace(run=run, add_arguments=lambda parser: None)
entry.choose_module = lambda name, arguments: (command, [])
for name in entry.COMMANDS:
    assert entry.main([name]) == 0
import convert_weights
parsed = types.SimpleNamespace(run=lambda options: run(options) or 0)
convert_weights._parser = lambda: types.SimpleNamespace(parse_known_args=lambda _: (parsed, []))
name = "convert_weights"
assert convert_weights.main([]) == 0
from jaxlib import xla_client
asked = {}
for name, environment in seen.items():
    os.environ.clear()
    os.environ.update(environment)
    asked[name] = xla_client.generate_pjrt_gpu_plugin_options()
print(json.dumps(asked))
"""


def query_jax_memory(**own):
    environment = {name: value for name, value in os.environ.items() if name not in MEMORY}
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        env={**environment, **own, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_command_sets_the_fraction_that_plans_assume():
    asked = query_jax_memory()
    assert set(asked) == {*entry.COMMANDS, "convert_weights"}
    assert {name: options["memory_fraction"] for name, options in asked.items()} == dict.fromkeys(
        asked, USABLE_FRACTION
    )


@pytest.mark.parametrize("name", [MEM_FRACTION, LEGACY_MEM_FRACTION])
def test_the_users_own_fraction_is_kept(name):
    """JAX ends a process that has both names of it."""
    assert {o["memory_fraction"] for o in query_jax_memory(**{name: "0.5"}).values()} == {0.5}


@pytest.mark.parametrize(
    ("own", "part"),
    [
        ({}, USABLE_FRACTION),
        ({MEM_FRACTION: str(USABLE_FRACTION)}, USABLE_FRACTION),
        ({MEM_FRACTION: ".5"}, 0.5),
        ({LEGACY_MEM_FRACTION: ".5"}, 0.5),
        ({MEM_FRACTION: "1.5"}, 1.0),
        ({xla_flags.PREALLOCATE: "false"}, 0.75),
        ({xla_flags.PREALLOCATE: "false", MEM_FRACTION: "0.9"}, 0.9),
        ({xla_flags.ALLOCATOR: "cuda_async"}, 0.75),
        ({xla_flags.ALLOCATOR: "platform"}, USABLE_FRACTION),
    ],
)
def test_plans_use_the_fraction_of_the_environment(own, part, monkeypatch, caplog):
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)
    environment = dict(own)
    with caplog.at_level(logging.WARNING):
        set_xla_flags(environment)
    assert {name: environment[name] for name in MEMORY if name in environment} == (
        own or {MEM_FRACTION: str(USABLE_FRACTION)}
    )
    assert get_usable_fraction("cuda", environment) == part
    assert get_usable_fraction("tpu", environment) == USABLE_FRACTION
    said = bool(own) and own != {MEM_FRACTION: str(USABLE_FRACTION)}
    assert len(caplog.messages) == said
    if said:
        assert f"is kept: programs get {part:.0%} of GPU memory" in caplog.text


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan"])
def test_a_fraction_that_is_not_a_number_is_rejected(value):
    with pytest.raises(OmfaError, match="expected a number > 0"):
        get_usable_fraction("cuda", {MEM_FRACTION: value})


def test_memory_is_left_to_metrics_on_the_same_gpu():
    environment = {MEM_FRACTION: str(USABLE_FRACTION)}
    reserve_gpu_memory("another library", environment)
    assert not environment
    for own in ({MEM_FRACTION: "0.5"}, {}):
        environment = dict(own)
        reserve_gpu_memory("another library", environment)
        assert environment == own


@pytest.mark.parametrize(("device", "set_here"), [("cpu", True), ("cuda:0", False)])
def test_scoring_on_a_gpu_leaves_memory_to_pytorch(monkeypatch, tmp_path, capsys, device, set_here):
    for name in MEMORY:
        # set and deleted, so that it is as it was afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    flags = ["--checkpoint", str(tmp_path / "none"), "--data", "none", "--task", "try_on"]
    flags += ["--out", str(tmp_path / "out"), "--device", device]
    assert main(["eval", *flags]) == 2
    assert "no model at" in capsys.readouterr().err
    assert (MEM_FRACTION in os.environ) == set_here


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Run `omfa plan` of a small model; return (status, figures)."""
    for name in (*MEMORY, "XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    small = ("--config.model.unet=xs", "--config.train.remat=none", "--config.train.attention=xla")

    def run(topology, *arguments):
        out = tmp_path / "plan.json"
        base = ("--config", "configs/base.py", "--topology", topology, "--json", str(out))
        status = main(["plan", *base, *small, *arguments])
        return status, json.loads(out.read_text())["plan"] if out.exists() else None

    yield run
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def test_the_plans_budget_is_the_usable_fraction(planned, monkeypatch, capsys, caplog):
    status, figures = planned("h100-8")
    part = figures["peak_bytes"] / parse_topology("h100-8").chip.memory_bytes
    assert status == 0 and figures["usable"] == USABLE_FRACTION and part < USABLE_FRACTION
    assert "(92% of the device's)" in capsys.readouterr().out
    # a little less than the run needs
    monkeypatch.setenv(MEM_FRACTION, f"{0.999 * part:.9f}")
    monkeypatch.setattr(planning, "find_fitting_overrides", lambda *_, **__: None)
    with caplog.at_level(logging.WARNING):
        status, figures = planned("h100-8")
    assert status == 2 and not figures["fits"]
    assert "does not fit on h100-8" in capsys.readouterr().err
    assert f"{MEM_FRACTION}={0.999 * part:.9f} from the environment is kept" in caplog.text


def test_ahead_of_time_compilation_uses_the_flags_of_training(planned, monkeypatch):
    seen = []

    def compiler(machine):
        seen.append({n: os.environ.get(n, "") for n in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")})
        raise OmfaError("no compiler here")

    monkeypatch.setattr(aot, "describe_devices", compiler)
    for topology, variable, wanted in (
        ("h100-8", "XLA_FLAGS", GPU_FLAGS),
        ("v5litepod-8", "LIBTPU_INIT_ARGS", TPU_FLAGS),
    ):
        assert planned(topology, "--compile", "--config.train.attention=auto")[0] == 2
        assert all(f"{flag}={value}" in seen[-1][variable] for flag, value in wanted.items())
