"""The checkpoints that stay are the right ones over restarts, odd metrics and changed settings."""

import dataclasses
import json
import math

import numpy as np
import pytest
from matrix_training import matrix_run
from orbax.checkpoint.checkpoint_managers import preservation_policy
from small_settings import make_keep_settings, make_optimizer_settings
from tiny_training import CountingBatches

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints.retention import KeepBest, get_score, to_json_row
from omfa_jax.train.loop import train
from omfa_jax.train.monitoring.metrics_buffer import MetricsBuffer

# a loss that is lowest in the middle: the gain of the inputs makes it
GAINS = (3.0, 3.0, 0.1, 2.0, 2.0, 1.0, 2.0, 3.0, 3.0, 2.0)


class Gained(CountingBatches):
    """Pictures of batch n are GAINS[n] times as strong."""

    def __next__(self):
        gain = GAINS[self.position]
        batch = super().__next__()
        return {
            name: value * np.float32(gain) if name.endswith("_latents") else value
            for name, value in batch.items()
        }


def run(workdir, steps, **keep):
    made = matrix_run(
        workdir,
        steps,
        save_every_steps=1,
        keep=make_keep_settings(**keep),
        optimizer=make_optimizer_settings(learning_rate=1e-6, warmup_steps=0),
    )
    train(dataclasses.replace(made, batches=Gained()))


def kept(workdir):
    return {int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()}


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


def best(workdir, upto):
    by_loss = {step: loss for step, loss in losses(workdir).items() if step <= upto}
    return min(by_loss, key=by_loss.__getitem__)


def test_four_restarts_keep_the_last_the_regular_and_the_one_best(tmp_path):
    for steps in (2, 4, 6, 8, 10):
        run(tmp_path, steps, last=2, every_steps=5, best_of="loss")
        regular = {step for step in (5, 10) if step <= steps}
        last = {steps - 1, steps}
        assert kept(tmp_path) == last | regular | {best(tmp_path, steps)}, steps
    assert best(tmp_path, 10) == 3


def test_another_metric_a_late_one_and_a_lower_keep_count_for_old_checkpoints_too(tmp_path):
    run(tmp_path, 6, last=6)
    # the rows of checkpoints saved before anybody asked for a best one are there
    run(tmp_path, 7, last=2, best_of="loss")
    assert kept(tmp_path) == {3, 6, 7}
    run(tmp_path, 8, last=1, best_of="learning_rate")
    # of equal ones the earliest
    assert kept(tmp_path) == {3, 8}
    run(tmp_path, 9, last=1)
    assert kept(tmp_path) == {9}


def test_a_checkpoint_of_before_rows_were_saved_is_not_the_best_and_goes(tmp_path):
    run(tmp_path, 2, last=2)
    for step in (1, 2):
        (tmp_path / f"checkpoints/{step}/row/metadata").unlink()
    run(tmp_path, 4, last=1, best_of="loss")
    assert kept(tmp_path) == {3, 4}


@dataclasses.dataclass
class Info:
    step: int
    metrics: dict | None


def chosen(folder, *values):
    rows = [None if v is None else {} if v == "absent" else to_json_row({"m": v}) for v in values]
    infos = [Info(step, row) for step, row in enumerate(rows)]
    context = preservation_policy.PreservationContext()
    flags = KeepBest("m", folder).should_preserve(infos, context=context)
    return [step for step, flag in enumerate(flags) if flag]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((2.0, 1.0, 3.0), [1]),
        ((math.nan, 2.0, math.nan, 1.0, math.nan), [3]),
        ((1.0, math.nan), [0]),
        ((math.inf, 5.0, -math.inf), [1]),
        ((math.nan, math.inf, "absent", None), []),
        (("absent", 7.0, None), [1]),
        ((1.0, 1.0), [0]),
        ((-1.0, 0.0), [0]),
        ((), []),
    ],
)
def test_what_is_no_finite_number_is_never_the_best(tmp_path, values, expected):
    assert chosen(tmp_path, *values) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", [1], True, 10**400])
def test_so_it_is_in_a_row_that_another_program_wrote(value):
    assert get_score({"m": value}, "m") == math.inf


def test_a_row_that_cannot_be_reached_now_costs_no_checkpoint(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("omfa_jax.train.checkpoints.retention.read_json", fail)
    assert chosen(tmp_path, 2.0, None, 1.0) == [1, 2]
    assert "checkpoint" in caplog.text and "is kept: [Errno 5]" in caplog.text


def test_a_metric_that_one_row_lacks_is_no_error_and_one_that_none_has_is(tmp_path, caplog):
    def marked(values):
        def row(self, saved, workdir):
            found, value = real(self, saved, workdir), values.pop(0)
            return found if value is None else found | {"mark": value}

        return row

    def run_until(workdir, steps, values):
        keep = make_keep_settings(last=1, best_of="mark")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetricsBuffer, "pop_means", marked(values))
            train(matrix_run(workdir, steps, save_every_steps=1, keep=keep))

    real = MetricsBuffer.pop_means
    run_until(tmp_path, 4, [2.0, 1.0, None, 3.0])
    assert kept(tmp_path) == {2, 4}
    assert "checkpoint 3 has no metric 'mark', so it cannot be kept as the best" in caplog.text
    # known from the checkpoints after a restart
    run_until(tmp_path, 5, [None])
    assert kept(tmp_path) == {2, 5}
    with pytest.raises(OmfaError, match="keep_best_of 'mark'"):
        run_until(tmp_path / "new", 1, [None])
