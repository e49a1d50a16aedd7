"""The training state: a pytree, created sharded and updated by one function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from omfa_jax.parallel.global_arrays import put_global
from omfa_jax.parallel.mesh import make_replicated_sharding
from omfa_jax.parallel.sharding_rules import Rules, make_param_shardings, match_state_shardings

Params = dict[str, Any]
Start = Params | Callable[[], Params]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """`step` updates have been made and `step` batches consumed; `ema` is None without EMA."""

    # on the device, so that the jitted step can fold it into its keys without a transfer
    step: Int[Array, ""]
    params: Params
    ema: Params | None
    opt_state: optax.OptState


def make_state(
    params: Params, optimizer: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """Return the state at step 0; the EMA starts at the parameters."""
    # a copy: the step donates its state, and one buffer cannot be donated twice
    ema = jax.tree.map(jnp.copy, params) if ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))


def get_state_shardings(abstract: TrainState, rules: Rules, mesh: Mesh) -> TrainState:
    """Return the shardings of a state; moments and EMA are sharded like their parameters."""
    params = make_param_shardings(rules, abstract.params, mesh)
    return match_state_shardings(abstract, params, make_replicated_sharding(mesh))


def make_abstract_state(
    start: Start, optimizer: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """Return the state's shapes and dtypes, without computing anything."""
    params = jax.eval_shape(start) if callable(start) else start
    return jax.eval_shape(lambda p: make_state(p, optimizer, ema_decay), params)


def init_sharded_state(
    start: Start,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    shardings: TrainState,
) -> TrainState:
    """Return the sharded state at step 0; no device ever holds a full copy.

    `start` is a jittable function that draws random parameters, or a tree of host arrays.
    """
    if callable(start):
        # out_shardings: every device draws its own shards and nothing else
        params = jax.jit(start, out_shardings=shardings.params)()
    else:
        params = put_global(start, shardings.params)
    fill = jax.jit(lambda p: make_state(p, optimizer, ema_decay), out_shardings=shardings)
    return fill(params)


def apply_gradients(
    state: TrainState,
    grads: Params,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """Return the state after one update.

    The EMA's decay warms up as min(decay, (1 + n) / (10 + n)), so that a short run's average
    forgets its start.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # float32 throughout: 1 - decay is 1e-4, and bfloat16 would round such a step away
        n = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1.0 + n) / (10.0 + n))
        ema = jax.tree.map(lambda old, new: old * decay + new * (1.0 - decay), ema, params)
    return TrainState(state.step + 1, params, ema, opt_state)
