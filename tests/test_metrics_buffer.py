"""Losses that are no numbers: the run stops and says where, or passes over them and counts."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from matrix_training import matrix_run
from small_settings import make_keep_settings, make_train_settings
from tiny_training import CountingBatches

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step
from omfa_jax.train.loop import train
from omfa_jax.train.monitoring import metrics_buffer
from omfa_jax.train.monitoring.metrics_buffer import MetricsBuffer


def metrics(loss, grad_norm=1.0, task=0.5):
    values = {"loss": loss, "grad_norm": grad_norm, "loss/try_on": task}
    return {name: np.float32(value) for name, value in values.items()}


def test_means_leave_out_absent_tasks(tmp_path):
    window = MetricsBuffer(skips=False)
    window.add(1, metrics(1.0, task=float("nan")), np.arange(8))
    window.add(2, metrics(3.0, task=0.25), np.arange(8))
    assert window.pop_means(0, tmp_path) == {"loss": 2.0, "grad_norm": 1.0, "loss/try_on": 0.25}
    window.add(3, metrics(5.0, task=float("nan")), np.arange(8))
    row = window.pop_means(0, tmp_path)
    assert row["loss"] == 5.0 and np.isnan(row["loss/try_on"])


@pytest.mark.parametrize("bad", [metrics(float("nan")), metrics(1.0, float("inf"))])
def test_the_first_bad_step_its_records_and_the_last_checkpoint_are_named(tmp_path, bad):
    window = MetricsBuffer(skips=False)
    window.add(6, metrics(1.0), np.arange(3))
    window.add(7, bad, np.array([40, 2, 77]))
    window.add(8, bad, np.arange(3))
    with pytest.raises(OmfaError, match=r"step 7: .*\(2 of the last 3 steps\).*\[40, 2, 77\]") as e:
        window.pop_means(5, tmp_path)
    assert "is of step 5" in str(e.value) and "on_nonfinite=skip" in str(e.value)


def test_skipped_steps_are_counted_and_kept_out_of_the_means(tmp_path):
    window = MetricsBuffer(skips=True)
    for step, loss in enumerate((1.0, float("nan"), 3.0)):
        window.add(step, metrics(loss), np.arange(3))
    row = window.pop_means(0, tmp_path)
    assert (row["loss"], row["skipped_steps"]) == (2.0, 1.0)
    window.add(4, metrics(float("inf")), np.arange(3))
    with pytest.raises(OmfaError, match="1 of the last 1 steps"):
        window.pop_means(0, tmp_path)


def test_the_process_whose_records_gave_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(metrics_buffer, "YIELD_S", 0.0)
    monkeypatch.setattr(
        metrics_buffer, "name_process", lambda index: f"process {index} on h{index}"
    )
    bad = metrics(float("nan")) | {"nonfinite_parts": np.float32([0, 0, 0, 1])}
    told = {}
    for process in (0, 1):
        parts = {0: {0, 1}, 1: {2, 3}}
        window = MetricsBuffer(skips=False, process_parts=parts, process=process)
        window.add(7, bad, np.arange(4) + 10 * process)
        with pytest.raises(OmfaError) as raised:
            window.pop_means(5, tmp_path)
        told[process] = str(raised.value)
    assert "It came from the records of process 1 on h1, whose log names them." in told[0]
    # the second of its two parts
    assert "It came from records [12, 13] of process 1 on h1." in told[1]
    # the gradient alone, or the weights: nobody's records
    for flags in ([0, 0, 0, 0], [1, 1, 1, 1]):
        window = MetricsBuffer(skips=False, process_parts=parts, process=0)
        window.add(7, bad | {"nonfinite_parts": np.float32(flags)}, np.arange(4))
        with pytest.raises(OmfaError, match=r"Its batch was records \[0, 1, 2, 3\] of process 0"):
            window.pop_means(5, tmp_path)
    assert "nonfinite_parts" not in keep_good(tmp_path)


def keep_good(tmp_path):
    window = MetricsBuffer(skips=False)
    window.add(1, metrics(1.0) | {"nonfinite_parts": np.zeros(4, np.float32)}, np.arange(4))
    return window.pop_means(0, tmp_path)


class Poisoned(CountingBatches):
    """The third batch holds a NaN."""

    def __next__(self):
        batch = super().__next__()
        if self.position == 3:
            batch["person_latents"][2] = np.nan
        return batch


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


def test_a_bad_batch_stops_the_run_or_changes_nothing(tmp_path):
    stopping = dataclasses.replace(
        matrix_run(tmp_path / "stop", 5, save_every_steps=2), batches=Poisoned()
    )
    with pytest.raises(OmfaError, match=r"step 3: the loss is nan .*of step 2, before it"):
        train(stopping)
    assert find_newest_complete_step(tmp_path / "stop" / "checkpoints") == 2
    skipping = dataclasses.replace(
        matrix_run(tmp_path / "skip", 5, on_nonfinite="skip", log_every_steps=5), batches=Poisoned()
    )
    state = train(skipping)
    assert int(state.step) == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.ema)))
    row = json.loads((tmp_path / "skip/metrics.jsonl").read_text().splitlines()[-1])
    assert row["skipped_steps"] == 1 and np.isfinite(row["loss"])


def test_kept_checkpoints_are_the_last_the_regular_and_the_best(tmp_path):
    keep = make_keep_settings(last=2, every_steps=4, best_of="loss")
    train(matrix_run(tmp_path, 9, save_every_steps=1, keep=keep))
    found = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    by_loss = losses(tmp_path)
    assert found == {4, 8, 9, min(by_loss, key=by_loss.__getitem__)}


def test_an_unknown_metric_is_named_at_the_first_save(tmp_path):
    with pytest.raises(OmfaError, match="keep_best_of 'los'; did you mean 'loss'"):
        train(matrix_run(tmp_path, 1, keep=make_keep_settings(best_of="los")))


def test_impossible_settings_are_refused():
    with pytest.raises(OmfaError, match=r"keep\.last: expected an integer from 1"):
        make_keep_settings(last=0)
    with pytest.raises(OmfaError, match="did you mean 'skip'"):
        make_train_settings(1, 1, on_nonfinite="skp")
