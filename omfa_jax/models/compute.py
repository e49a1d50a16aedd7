"""How a network is run, as opposed to what it is: dtype, sharding hook, rematerialisation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from omfa_jax.core.errors import unknown

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]

# The names that a `constrain` hook is handed for each kind of activation.
IMAGE = ("batch", "height", "width", "channels")
TOKENS = ("batch", "length", "channels")
HEADS = ("batch", "length", "heads", "head_dim")
HIDDEN = ("batch", "length", "hidden")

REMAT = ("none", "block", "full")


@dataclass(frozen=True)
class Compute:
    """Settings of a run that leave the parameters as they are.

    `dtype` is the type of matrix products and convolutions; parameters, norms, softmax, the
    sinusoids and the last convolution are float32 whatever it is. `constrain(array, axis_names)`
    may put a sharding on an activation (None: leave it). `remat` says what the backward pass
    computes again: "none" nothing, "block" each transformer block, "full" each resnet as well.
    """

    dtype: DTypeLike = jnp.float32
    constrain: Constrain | None = None
    remat: str = "none"

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise unknown("remat policy", self.remat, REMAT)

    def place(self, array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """Return `array` with the hook's sharding on it, if there is a hook."""
        return array if self.constrain is None else self.constrain(array, axes)


Params = dict[str, Any]
