"""How a network is run, as opposed to what it is: dtype, hooks, attention, rematerialisation."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from omfa_jax.core.errors import unknown

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]
# (path of a weight, the part of it that is here, the type it is used in) -> the whole weight
Fetch = Callable[[tuple[str, ...], jax.Array, Any], jax.Array]
# (q, k, v), each (b, length, heads, head_dim) -> like q
AttentionKernel = Callable[..., jax.Array]

# The names that a `constrain` hook is handed for each kind of activation.
IMAGE = ("batch", "height", "width", "channels")
TOKENS = ("batch", "length", "channels")
HEADS = ("batch", "length", "heads", "head_dim")
HIDDEN = ("batch", "length", "hidden")

# from the fastest to the smallest
REMAT = ("none", "attention", "block", "full")


@dataclass(frozen=True)
class Compute:
    """Settings of a run that leave the parameters as they are.

    `dtype` is the type of matrix products and convolutions; parameters, norms, softmax, the
    sinusoids and the last convolution are float32 whatever it is. `constrain(array, axis_names)`
    may put a sharding on an activation (None: leave it). `fetch` turns the part of a linear or
    convolution weight that a device holds into the whole (None: parameters are whole); with
    `refetch` a layer's gradient fetches it again instead of keeping it. `kernel` computes the
    attention of image tokens to each other (None: `attention.attention`).

    `remat` says what the backward pass computes again: "none" nothing, "attention" the softmax of
    image tokens (its l x l weights are by far the largest activations), "block" each transformer
    block, "full" each resnet as well.
    """

    dtype: DTypeLike = jnp.float32
    constrain: Constrain | None = None
    remat: str = "none"
    kernel: AttentionKernel | None = None
    fetch: Fetch | None = None
    refetch: bool = True

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise unknown("remat policy", self.remat, REMAT)

    def recomputed(self) -> "Compute":
        """Return the same within a part that the backward pass computes again as a whole.

        Computing it again fetches its weights; they live on until the part's gradient is done.
        """
        return dataclasses.replace(self, refetch=False)

    def place(self, array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """Return `array` with the hook's sharding on it, if there is a hook."""
        return array if self.constrain is None else self.constrain(array, axes)


Params = dict[str, Any]
