"""One training step: loss, gradients, update; jitted once with explicit shardings."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from omfa_jax.parallel.mesh import batch_sharding, replicated
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
) -> Step:
    """Return `step(state, frozen, batch, root_key) -> (state, metrics)`; the old state is donated.

    Metrics are scalars left on the device: loss, gradient norm and whatever the objective adds.
    """

    def step(state: TrainState, frozen: Any, batch: Batch, root: Array):
        def loss(params):
            return objective(params, frozen, batch, root, state.step)

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **metrics}
        return updated(state, grads, optimizer, ema_decay), metrics

    return jax.jit(
        step,
        in_shardings=(shardings, frozen_shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
