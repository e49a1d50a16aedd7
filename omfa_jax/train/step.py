"""The training step: loss, gradients and update, jitted once with explicit shardings."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from omfa_jax.parallel.mesh import make_batch_sharding, make_replicated_sharding
from omfa_jax.train.gradient import Metrics, make_sharded_gradient
from omfa_jax.train.objective import DeviceBatch, Objective
from omfa_jax.train.state import TrainState, apply_gradients


class Step(Protocol):
    """The jitted step; `lower(...).compile()` compiles it ahead of the first call."""

    def __call__(
        self, state: TrainState, constants: Any, batch: DeviceBatch, root: jax.Array, /
    ) -> tuple[TrainState, Metrics]: ...

    def lower(self, *args: Any) -> Any: ...


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    shardings: TrainState,
    constants_shardings: Any,
    mesh: Mesh,
    *,
    grad_accum_steps: int = 1,
    skip_nonfinite: bool = False,
) -> Step:
    """Return `step(state, constants, batch, root) -> (state, metrics)`; the old state is donated.

    Metrics are scalars that stay on the device: loss, gradient norm and those of the objective.
    The batch comes from `make_global_batch`. `grad_accum_steps` microbatches are run one after the
    other in the memory of one; an example's random numbers depend on its row of the global batch
    alone. With `skip_nonfinite` a step with a non-finite loss or gradient counts, but changes
    nothing.
    """

    gradient = make_sharded_gradient(objective, shardings.params, mesh, grad_accum_steps)

    def step(state: TrainState, constants: Any, batch: DeviceBatch, root: Array):
        value, metrics, grads = gradient(state.params, constants, batch, root, state.step)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **metrics}
        new = apply_gradients(state, grads, optimizer, ema_decay)
        if skip_nonfinite:
            # selected after the update, in one program: a host check would stall every step
            # the gradient may overflow where the loss does not
            good = jnp.isfinite(value) & jnp.isfinite(metrics["grad_norm"])
            # the step still counts: the data position has moved on, and so must the random keys
            old = dataclasses.replace(state, step=new.step)
            new = jax.tree.map(lambda moved, kept: jnp.where(good, moved, kept), new, old)
        return new, metrics

    return jax.jit(
        step,
        # stated, not inferred: an array that arrives with another sharding is an error, not a copy
        in_shardings=(
            shardings,
            constants_shardings,
            make_batch_sharding(mesh),
            make_replicated_sharding(mesh),
        ),
        out_shardings=(shardings, make_replicated_sharding(mesh)),
        # updates parameters, moments and EMA in place instead of holding them twice
        donate_argnums=0,
    )
