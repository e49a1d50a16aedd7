"""Check a state before it is saved: every number must be finite."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import make_replicated_sharding
from omfa_jax.train.state import TrainState


def require_finite(state: TrainState, mesh: Mesh, step: int, saved: int) -> None:
    """Raise an OmfaError that names the first arrays with NaN or infinity.

    A step's loss is computed from the parameters before its update, so a finite loss does not show
    that the update was finite. A collective call: one reduction over the state, on the devices.
    `saved` is the step of the last save.
    """
    good = np.asarray(_make_finite_check(mesh)(state))
    if good.all():
        return
    # in the order of jax.tree.leaves, as the flags are
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    wrong = [_name(path) for path, whole in zip(paths, good, strict=True) if not whole]
    before = f"step {saved} is the last one saved" if saved else "nothing was saved before"
    raise OmfaError(
        f"after step {step} {len(wrong)} of {len(paths)} arrays of the state hold NaN or infinity"
        f" ({', '.join(wrong[:2])}): it is not saved, and {before}; lower"
        " config.optimizer.learning_rate, or set config.optimizer.clip_norm"
    )


@functools.cache
def _make_finite_check(mesh: Mesh) -> Callable[[TrainState], Bool[Array, "arrays"]]:
    def finite(state: TrainState) -> Bool[Array, "arrays"]:
        # one flag per array crosses to the host, not the arrays
        return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)])

    return jax.jit(finite, out_shardings=make_replicated_sharding(mesh))


def _name(path: tuple) -> str:
    keys = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(map(str, keys))
