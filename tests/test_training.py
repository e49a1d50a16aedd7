"""One run, in one go and interrupted, on one device and on many: always the same run."""

import dataclasses
import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from event_files import read_events
from matrix_training import matrix_run
from small_settings import make_optimizer_settings
from tiny_training import CountingBatches
from warm_process import WarmProcess

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step
from omfa_jax.train.loop import train
from omfa_jax.train.monitoring.tensorboard_tags import get_scalar_tag
from omfa_jax.train.signals import TrainingInterrupt

STEPS = 5
# every axis
MESH = (2, 2, 2)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def logged(workdir, name):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row[name] for row in map(json.loads, lines)}


def losses(workdir):
    return logged(workdir, "loss")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    run = matrix_run(workdir, STEPS)
    return workdir, train(run), run


def test_every_curve_of_a_run_has_a_group(straight):
    workdir, _, _ = straight
    events = read_events(workdir / "tensorboard")
    tags = {value.tag for event in events for value in event.summary.value}
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    keys = {key for row in rows for key in row} - {"step", "time"}
    assert {get_scalar_tag(key) for key in keys} <= tags
    groups = {tag.split("/")[0] for tag in tags}
    assert {"loss", "learning", "time", "perf"} <= groups
    assert groups <= {"loss", "loss_at", "learning", "time", "perf", "progress", "config"}, groups


def test_five_steps_are_two_a_restart_and_three(straight, tmp_path):
    workdir, state, run = straight
    stopped = matrix_run(tmp_path, 2)
    train(stopped)
    resumed = matrix_run(tmp_path, STEPS)
    after = train(resumed)
    assert stopped.batches.seen == [0, 1]
    assert resumed.batches.seen == [2, 3, 4]
    assert run.batches.seen == [0, 1, 2, 3, 4]
    for name in ("params", "ema", "opt_state"):
        for a, b in zip(leaves(getattr(state, name)), leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert losses(workdir) == losses(tmp_path)


def test_the_mesh_does_not_matter(straight, tmp_path):
    """Of a matrix; the gradient of a UNet: test_reference_training."""
    workdir, state, _ = straight
    other = train(matrix_run(tmp_path, STEPS, MESH))
    for name, bound in (("loss", 1e-5), ("grad_norm", 1e-4)):
        assert logged(tmp_path, name) == pytest.approx(logged(workdir, name), rel=bound)
    for a, b in zip(leaves(state.params), leaves(other.params), strict=True):
        # Adam divides by the gradient's size: rounding in tiny gradients moves a weight by up to lr
        np.testing.assert_allclose(a, b, atol=2e-4)
    for a, b in zip(leaves(state.ema), leaves(other.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    kernels = [leaf for leaf in jax.tree.leaves(other.params) if leaf.ndim >= 2]
    sharded = sum(leaf.size for leaf in kernels if not leaf.sharding.is_fully_replicated)
    assert sharded > 0.95 * sum(leaf.size for leaf in kernels)
    for p, m in zip(
        jax.tree.leaves(other.params), jax.tree.leaves(other.opt_state[1][0].mu), strict=True
    ):
        assert p.sharding.is_equivalent_to(m.sharding, p.ndim)


def test_a_save_compiles_no_slices_of_small_replicas(tmp_path, caplog):
    """Orbax would write an eighth from each device, with a program for each shape and device."""
    with jax.log_compiles():
        train(matrix_run(tmp_path, 1, mesh=(8, 1, 1)))
    assert "jit(per_leaf)" in caplog.text and "jit(slice)" not in caplog.text


def test_a_run_restarts_on_another_mesh_in_microbatches(tmp_path):
    """Of a matrix: what is restored and summed does not know the network."""
    workdir = tmp_path / "straight"
    state = train(matrix_run(workdir, STEPS))
    train(matrix_run(tmp_path, 2, mesh=MESH))
    resumed = matrix_run(tmp_path, STEPS, mesh=(1, 4, 1), grad_accum_steps=2)
    after = train(resumed)
    assert resumed.batches.seen == [2, 3, 4]
    assert losses(tmp_path) == pytest.approx(losses(workdir), rel=2e-5)
    assert logged(tmp_path, "grad_norm") == pytest.approx(logged(workdir, "grad_norm"), rel=1e-4)
    for name in ("params", "ema"):
        for a, b in zip(leaves(getattr(state, name)), leaves(getattr(after, name)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)
    assert int(after.step) == int(state.step)


def test_pictures_come_after_the_save_and_never_end_a_run(tmp_path, caplog):
    seen = []

    def too_large(state, step):
        seen.append((step, any((tmp_path / "checkpoints").glob(f"{step}*"))))
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    run = matrix_run(tmp_path, 3, samples_every_steps=1, save_every_steps=1)
    state = train(dataclasses.replace(run, draw_images=too_large))
    assert int(state.step) == 3 and find_newest_complete_step(tmp_path / "checkpoints") == 3
    assert seen == [(1, True)]
    assert "out of memory for sample images" in caplog.text


def test_the_ema_is_a_warmed_up_average(tmp_path):
    run = matrix_run(
        tmp_path, 1, optimizer=make_optimizer_settings(learning_rate=1e-3, warmup_steps=0)
    )
    before = jax.jit(run.start)()
    state = train(run)
    # min(0.9, (1 + 0) / (10 + 0)) = 0.1 of the start is kept after the first update
    for old, new, average in zip(
        leaves(before), leaves(state.params), leaves(state.ema), strict=True
    ):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, atol=1e-6)
    moved = [np.abs(a - b).max() for a, b in zip(leaves(before), leaves(state.params), strict=True)]
    assert max(moved) > 5e-4


def test_sigterm_saves_and_the_next_run_goes_on(tmp_path):
    workdir = tmp_path / "straight"
    train(matrix_run(workdir, STEPS))
    stopped_dir = tmp_path / "stopped"

    class Interrupting(CountingBatches):
        def __next__(self):
            if self.position == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    run = matrix_run(stopped_dir, STEPS)
    object.__setattr__(run, "batches", Interrupting())
    with pytest.raises(TrainingInterrupt, match="saved step 3") as stopped:
        train(run)
    assert stopped.value.exit_status == 143
    assert find_newest_complete_step(stopped_dir / "checkpoints") == 3
    resumed = matrix_run(stopped_dir, STEPS)
    train(resumed)
    assert resumed.batches.seen == [3, 4]
    assert losses(stopped_dir) == losses(workdir)


def test_a_half_written_checkpoint_is_passed_over(tmp_path, caplog):
    train(matrix_run(tmp_path, 2))
    (tmp_path / "checkpoints" / "7").mkdir()
    assert find_newest_complete_step(tmp_path / "checkpoints") == 2
    assert "checkpoints/7 is incomplete" in caplog.text
    run = matrix_run(tmp_path, 3)
    train(run)
    assert run.batches.seen == [2]


def test_nothing_whole_is_never_a_silent_new_start(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(OmfaError, match="none is complete; refusing to overwrite"):
        train(matrix_run(tmp_path, 1))


def test_a_checkpoint_of_another_model_is_one_clear_error(tmp_path):
    train(matrix_run(tmp_path, 1))
    other = matrix_run(tmp_path, 2)
    wider = jax.eval_shape(other.start)
    wider["spare"] = jax.ShapeDtypeStruct((64, 96), jnp.float32)
    object.__setattr__(
        other, "start", lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), wider)
    )
    with pytest.raises(OmfaError, match="does not fit this config's model") as raised:
        train(other)
    assert "\n" not in str(raised.value)
    assert "--workdir" in str(raised.value)
    assert "difference: params.spare is (64, 64) in" in str(raised.value)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(matrix_run(tmp_path, 1))
    for item in ("state", "ema"):
        (tmp_path / "checkpoints" / "1" / item / "_METADATA").unlink()
    with pytest.raises(OmfaError, match="checkpoints/1/ema is damaged"):
        restore_params(tmp_path)
    with pytest.raises(OmfaError, match="checkpoints/1/state is damaged"):
        train(matrix_run(tmp_path, 2))


FULL_DISK = """
import resource, sys
from pathlib import Path
from event_files import read_events
from matrix_training import matrix_run
from omfa_jax.core.errors import OmfaError
from omfa_jax.train.loop import train
from omfa_jax.train.monitoring.tensorboard_tags import get_scalar_tag
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, -1))
try:
    train(matrix_run(Path(sys.argv[1]), 2))
except OmfaError as error:
    print(error)
"""


def test_a_failed_save_names_the_last_whole_step(tmp_path):
    """A disk that takes no more (here: no file over 8 kB): one error, step 1 is still whole.

    In a process of its own: Orbax leaves the tasks of a failed save to the garbage collector.
    """
    train(matrix_run(tmp_path, 1))
    out, err = WarmProcess(FULL_DISK, [str(tmp_path)]).communicate()
    assert re.search(r"newest complete one is 1; free some space.*File too large", out), err
    assert find_newest_complete_step(tmp_path / "checkpoints") == 1
    resumed = matrix_run(tmp_path, 2)
    train(resumed)
    assert resumed.batches.seen == [1]


def test_a_nan_loss_stops_before_it_is_saved(tmp_path):
    # without the bound that the matrix run's tanh sets
    run = matrix_run(
        tmp_path,
        3,
        apply=lambda params, inputs, *_: inputs @ params["kernel"],
        optimizer=run_away(),
    )
    with pytest.raises(OmfaError, match="the loss is"):
        train(run)
    assert find_newest_complete_step(tmp_path / "checkpoints") is None


def run_away():
    settings = make_optimizer_settings(warmup_steps=1, clip_norm=0.0)
    # a rate that no settings allow
    object.__setattr__(settings, "learning_rate", 1e30)
    return settings


def test_batches_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(OmfaError, match="does not divide over slice x data x fsdp = 3"):
        train(matrix_run(tmp_path, 1, mesh=(3, 1, 1)))
    with pytest.raises(OmfaError, match="4 devices times 3 microbatches"):
        train(matrix_run(tmp_path, 1, mesh=(2, 2, 1), grad_accum_steps=3))


def test_an_unwritable_workdir_is_one_clear_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OmfaError, match="--workdir"):
        train(matrix_run(blocked, 1))
    shutil.rmtree(tmp_path, ignore_errors=True)
