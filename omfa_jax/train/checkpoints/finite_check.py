"""Check a state before it is saved: every number must be finite."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints.leaf_groups import compute_per_leaf
from omfa_jax.train.state import TrainState


def require_finite(state: TrainState, step: int, saved: int) -> None:
    """Raise an OmfaError that names the first arrays with NaN or infinity.

    A step's loss is computed from the parameters before its update, so a finite loss does not show
    that the update was finite. A collective call: a reduction over the state, on the devices.
    `saved` is the step of the last save.
    """
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    good = compute_per_leaf(_is_finite, [leaf for _, leaf in named])
    if good.all():
        return
    wrong = [_name(path) for (path, _), whole in zip(named, good, strict=True) if not whole]
    before = f"step {saved} is the last one saved" if saved else "nothing was saved before"
    raise OmfaError(
        f"after step {step} {len(wrong)} of {len(named)} arrays of the state hold NaN or infinity"
        f" ({', '.join(wrong[:2])}): it is not saved, and {before}; lower"
        " config.optimizer.learning_rate, or set config.optimizer.clip_norm"
    )


def _is_finite(leaf: Array) -> Bool[Array, ""]:
    # one flag per array crosses to the host, not the arrays
    return jnp.isfinite(leaf).all()


def _name(path: tuple) -> str:
    keys = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(map(str, keys))
