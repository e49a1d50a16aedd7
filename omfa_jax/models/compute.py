"""How a network is executed: compute dtype, sharding hooks, attention kernel, rematerialisation."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from omfa_jax.core.errors import make_unknown_name_error

ConstrainFn = Callable[[jax.Array, tuple[str, ...]], jax.Array]
# (path of a weight, the local shard of it, compute dtype) -> the complete weight
GatherFn = Callable[[tuple[str, ...], jax.Array, Any], jax.Array]
# (q, k, v), each (b, length, heads, head_dim) -> like q
AttentionKernel = Callable[..., jax.Array]

# axis names that a `constrain` hook receives, for each kind of activation
IMAGE_AXES = ("batch", "height", "width", "channels")
TOKEN_AXES = ("batch", "length", "channels")
HEAD_AXES = ("batch", "length", "heads", "head_dim")
HIDDEN_AXES = ("batch", "length", "hidden")

# from the fastest to the one that needs least memory
REMAT_POLICIES = ("none", "attention", "block", "full")


@dataclass(frozen=True)
class Compute:
    """Settings of execution that do not change the parameters.

    `dtype` is the dtype of matrix products and convolutions; parameters, norms, softmax, sinusoidal
    embeddings and the last convolution are always float32. `constrain(array, axis_names)` may put a
    sharding constraint on an activation (None: no constraint). `gather` all-gathers a linear or
    convolution weight from the shard on this device (None: parameters are not sharded); with
    `regather`, the backward pass of a layer gathers it again instead of keeping it. `kernel`
    computes the self-attention of image tokens (None: `attention.attention`).

    `remat` selects what the backward pass recomputes: "none"; "attention", the softmax of image
    tokens, whose l x l weights are by far the largest activations; "block", each transformer block;
    "full", each resnet as well.
    """

    dtype: DTypeLike = jnp.float32
    constrain: ConstrainFn | None = None
    remat: str = "none"
    kernel: AttentionKernel | None = None
    gather: GatherFn | None = None
    regather: bool = True

    def __post_init__(self) -> None:
        if self.remat not in REMAT_POLICIES:
            raise make_unknown_name_error("remat policy", self.remat, REMAT_POLICIES)

    def without_regather(self) -> "Compute":
        """Return the settings for a module that the backward pass recomputes as a unit.

        The recomputation gathers its weights, which then stay in memory until its gradient is done;
        gathering them once more for each layer would only add communication.
        """
        return dataclasses.replace(self, regather=False)

    def constrain_activation(self, array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """Return `array` with the sharding constraint of the hook, if there is a hook."""
        return array if self.constrain is None else self.constrain(array, axes)


Params = dict[str, Any]
