"""One training step: loss, gradients, update; jitted once with explicit shardings."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from omfa_jax.parallel.mesh import BATCH, batch_sharding, replicated
from omfa_jax.train.objective import Batch, Metrics, Objective
from omfa_jax.train.state import TrainState, updated

Step = Callable[[TrainState, Any, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    shardings: TrainState,
    frozen_shardings: Any,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
) -> Step:
    """Return `step(state, frozen, batch, root_key) -> (state, metrics)`; the old state is donated.

    Metrics are scalars left on the device: loss, gradient norm and whatever the objective adds.
    `accumulate` cuts the batch into so many microbatches, one after the other in the memory of one;
    each example draws the same random numbers as in the whole batch. With `skip_nonfinite` a step
    whose loss or gradient is no number counts, but changes nothing.
    """

    def step(state: TrainState, frozen: Any, batch: Batch, root: Array):
        def gradient(rows: Batch):
            return jax.value_and_grad(objective, has_aux=True)(
                state.params, frozen, rows, root, state.step
            )

        size = next(iter(batch.values())).shape[0]
        batch = {**batch, "row": jnp.arange(size)}
        if accumulate == 1:
            (value, metrics), grads = gradient(batch)
        else:
            value, metrics, grads = accumulated(gradient, microbatches(batch, accumulate, mesh))
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **metrics}
        new = updated(state, grads, optimizer, ema_decay)
        if skip_nonfinite:
            good = jnp.isfinite(value) & jnp.isfinite(metrics["grad_norm"])
            old = dataclasses.replace(state, step=new.step)
            new = jax.tree.map(lambda moved, kept: jnp.where(good, moved, kept), new, old)
        return new, metrics

    return jax.jit(
        step,
        in_shardings=(shardings, frozen_shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def microbatches(batch: Batch, count: int, mesh: Mesh) -> Batch:
    """Return the batch with a leading axis of `count` microbatches.

    Each takes every `count`-th row, so that its rows lie where they lay: nothing moves between
    devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH))

    def cut(array: Array) -> Array:
        rows = array.reshape(array.shape[0] // count, count, *array.shape[1:])
        return jax.lax.with_sharding_constraint(rows.swapaxes(0, 1), sharding)

    return jax.tree.map(cut, batch)


def accumulated(gradient: Callable[[Batch], Any], parts: Batch) -> tuple[Array, Metrics, Any]:
    """Return the mean loss, metrics and gradient over microbatches of one size.

    Metrics over some of the examples are means of the microbatches that had any.
    """

    def add(total, part):
        (value, metrics), grads = gradient(part)
        return jax.tree.map(jnp.add, total, grads), (value, metrics)

    shapes = jax.eval_shape(lambda: gradient(jax.tree.map(lambda x: x[0], parts)))[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, (values, metrics) = jax.lax.scan(add, zeros, parts)
    count = values.shape[0]
    means = {name: jnp.nanmean(found) for name, found in metrics.items()}
    return values.mean(), means, jax.tree.map(lambda leaf: leaf / count, total)
