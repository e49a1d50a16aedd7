"""The next batch is fetched and placed while the device runs; saved positions count steps taken."""

import dataclasses
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrix_training import matrix_run
from tiny_training import BATCH, CountingBatches

from omfa_jax.data.pipeline.buffer_pool import BufferPool
from omfa_jax.data.pipeline.decode_record import stack_examples
from omfa_jax.train import loop

STEPS = 6


def slow(step):
    """Make a step's results come some tenths of a second later, by work of the device alone."""

    @jax.jit
    def later(metrics):
        work = jax.lax.fori_loop(
            0, 60, lambda _, x: jnp.tanh(x @ x), jnp.full((512, 512), metrics["loss"])
        )
        return {name: value + 0 * work[0, 0] for name, value in metrics.items()}

    def taken(*arguments):
        state, metrics = step(*arguments)
        return state, later(metrics)

    taken.lower = step.lower
    return taken


class Watching(CountingBatches):
    """Notes with every batch whether the step before it was done when it was asked for."""

    def __init__(self, metrics):
        super().__init__()
        self.metrics = metrics
        self.was_done: list[bool] = []

    def __next__(self):
        if self.metrics:
            self.was_done.append(self.metrics[-1]["loss"].is_ready())
        return super().__next__()


def test_batches_are_placed_while_the_step_before_runs(tmp_path, monkeypatch):
    metrics, placed = [], []
    make_step, to_global = loop.make_step, loop.make_global_batch

    def watched_step(*arguments, **options):
        step = slow(make_step(*arguments, **options))

        def taken(*step_arguments):
            state, found = step(*step_arguments)
            metrics.append(found)
            return state, found

        taken.lower = step.lower
        return taken

    def watched_place(mesh, batch):
        on_devices = jax.block_until_ready(to_global(mesh, batch))
        if metrics:
            placed.append(metrics[-1]["loss"].is_ready())
        return on_devices

    monkeypatch.setattr(loop, "make_step", watched_step)
    monkeypatch.setattr(loop, "make_global_batch", watched_place)
    batches = Watching(metrics)
    # nothing is logged or saved before the last step: both wait for the device
    run = matrix_run(tmp_path, STEPS, log_every_steps=STEPS, save_every_steps=STEPS)
    loop.train(dataclasses.replace(run, batches=batches))
    assert batches.was_done == [False] * (STEPS - 1)
    assert placed == [False] * (STEPS - 1)


def test_the_saved_position_is_that_of_the_steps_taken(tmp_path):
    batches = CountingBatches()
    run = matrix_run(tmp_path, STEPS, save_every_steps=2, log_every_steps=STEPS)
    loop.train(dataclasses.replace(run, batches=batches))
    assert batches.seen == list(range(STEPS))
    saved = {}
    for folder in (tmp_path / "checkpoints").glob("[0-9]*"):
        saved[int(folder.name)] = json.loads((folder / "data" / "metadata").read_text())
    assert saved and all(saved[step] == {"next_index": step} for step in saved)


class InRooms(CountingBatches):
    """Batches that lie in lent memory as the pipeline's do; counts those that somebody holds."""

    def __init__(self, *, mixed):
        super().__init__()
        self.mixed = mixed
        self.rooms = BufferPool()
        self.lent: list[weakref.ref] = []
        self.held: list[int] = []

    def __next__(self):
        whole = super().__next__()
        whole["dataset"] = np.arange(BATCH, dtype=np.int32) % 2 * self.mixed
        rows = ({name: value[row] for name, value in whole.items()} for row in range(BATCH))
        batch = stack_examples(rows, BATCH, self.rooms)
        self.lent.append(weakref.ref(batch["index"].base))
        self.held.append(sum(ref() is not None for ref in self.lent))
        return batch


@pytest.mark.parametrize("mixed", [False, True])
def test_batches_are_let_go_before_the_log_is_due(tmp_path, mixed):
    batches = InRooms(mixed=mixed)
    steps = 3 * STEPS
    run = matrix_run(tmp_path, steps, log_every_steps=steps, save_every_steps=steps)
    loop.train(dataclasses.replace(run, batches=batches))
    # the next, the one on its way and the one in the step, and on busy cores those that XLA's own
    # threads have yet to let go; not all since the last row of the log
    assert np.median(batches.held) <= 3 and max(batches.held) < steps // 2
