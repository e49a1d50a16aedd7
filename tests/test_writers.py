"""What a run's log holds: rows, costs, W&B where it is asked for."""

import json
import logging
import sys
import types

import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.monitoring.goodput import read_start_time
from omfa_jax.train.monitoring.mfu import RunCost
from omfa_jax.train.monitoring.profiler import Profiler, ProfileSteps
from omfa_jax.train.monitoring.writers import Progress, Writers


def test_rows_are_lines_without_nan_and_go_on_after_a_restart(tmp_path):
    for step in (1, 2):
        writers = Writers(tmp_path, enabled=True)
        writers.write_scalars(step, {"loss": 0.5, "loss/try_on": float("nan")})
        writers.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.pop("time") > 0 for row in rows] == [True, True]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]


def test_other_processes_write_nothing(tmp_path):
    writers = Writers(tmp_path / "run", enabled=False, wandb_project="")
    writers.write_scalars(1, {"loss": 0.5})
    writers.write_image(1, "a", np.zeros((2, 2, 3), np.uint8))
    writers.close()
    assert not (tmp_path / "run").exists()


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that keeps what it is told."""
    told = types.SimpleNamespace(started=[], logged=[], finished=0)

    class Run:
        def log(self, values, step):
            told.logged.append((step, values))

        def finish(self):
            told.finished += 1

    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    module.init = lambda **fields: told.started.append(fields) or Run()  # type: ignore[attr-defined]
    module.Image = lambda picture: ("image", picture.shape)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_wandb_goes_on_in_the_same_run(wandb, tmp_path):
    for step in (1, 2):
        writers = Writers(tmp_path, enabled=True, wandb_project="p", config={"seed": 1})
        writers.write_scalars(step, {"loss": 0.5, "gone": float("nan")})
        writers.write_image(step, "sheet", np.zeros((2, 3, 3), np.uint8))
        writers.close()
    first, second = wandb.started
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert (first["project"], first["config"]) == ("p", {"seed": 1})
    assert wandb.logged[:2] == [(1, {"loss": 0.5}), (1, {"sheet": ("image", (2, 3, 3))})]
    assert wandb.finished == 2


def test_wandb_missing_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        OmfaError, match=r"config.log.wandb_project needs wandb.*pip install -e '\.\[wandb\]'"
    ):
        Writers(tmp_path / "run", enabled=True, wandb_project="p")
    assert not (tmp_path / "run").exists()


def test_cost_counts_samples_flops_and_rates():
    cost = RunCost(10, flops_per_example=2e12, batch_size=8, devices=4, peak_flops=100e12)
    row = cost.compute_metrics(5, step_seconds=0.5)
    assert (row["params"], row["samples"], row["flops"]) == (10, 40, 8e13)
    assert row["tflops_per_second_per_device"] == pytest.approx(8.0)
    assert row["mfu"] == pytest.approx(0.08)
    assert "mfu" not in RunCost(10, 2e12, 8, 4).compute_metrics(5, 0.5)
    assert "tflops_per_second_per_device" not in cost.compute_metrics(0, None)


def test_a_run_keeps_the_time_of_its_first_start(tmp_path):
    first = read_start_time(tmp_path / "run")
    assert read_start_time(tmp_path / "run") == first
    (tmp_path / "run" / "began").write_text("")  # cut short
    assert read_start_time(tmp_path / "run") >= first


@pytest.mark.parametrize(("text", "steps"), [("20", (20, 20)), (" 3-5 ", (3, 5))])
def test_profile_steps(text, steps):
    assert ProfileSteps.parse(text) == ProfileSteps(*steps)


@pytest.mark.parametrize("text", ["0", "5-3", "a", "-1", "3-"])
def test_other_profile_steps_are_refused(text):
    with pytest.raises(OmfaError, match="--profile takes a step or a range of steps"):
        ProfileSteps.parse(text)


def test_a_trace_of_the_chosen_steps_is_written(tmp_path):
    import jax.numpy as jnp

    profiler = Profiler(ProfileSteps(2, 3), tmp_path)
    for step in range(1, 5):
        profiler.before_step(step)
        assert profiler._running is (step in (2, 3))
        profiler.after_step(step, jnp.ones(3) + step)
    profiler.close()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_in_a_log(terminal, monkeypatch, caplog, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    with caplog.at_level(logging.INFO):
        progress = Progress(2, 10, batch_size=4, enabled=True)
        for _ in range(3):
            progress.advance()
        assert progress.report(5, 0.25) > 0
        progress.report(5, 0.25)
        progress.close()
    lines = [record.getMessage() for record in caplog.records]
    assert ("5/10" in capsys.readouterr().err) == terminal
    if terminal:
        assert not lines
    else:
        assert "step 5 of 10: loss 0.2500" in lines[0] and lines[0].endswith(" left")
        assert lines[1].endswith("0.0 examples/s, ? left")


def test_a_terminal_that_is_gone_shows_nothing_and_ends_nothing(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = Progress(0, 10, batch_size=4, enabled=True)

    def gone(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("sys.stderr.write", gone)
    progress._bar.mininterval = 0
    for step in range(1, 4):
        progress.advance()
        assert progress.report(step, 0.5) > 0
    progress.close()
