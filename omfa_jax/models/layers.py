"""Linear layers, convolutions and norms with the paddings and epsilons of diffusers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from omfa_jax.models.compute import Compute, GatherFn
from omfa_jax.models.convolution import convolve


class ParamModule(nn.Module):
    """A module whose weights are checked by the shape asked for.

    Flax traces each weight's initializer at every use to learn that shape, a fifth of the time that
    tracing a UNet takes.
    """

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return a weight; flax.errors.ScopeParamShapeError if it has another shape."""
        if self.is_initializing() or not self.has_variable("params", name):
            return super().param(name, *args, **kwargs)
        # of the arguments: the initializer, the shape, the dtype
        value, shape = self.get_variable("params", name), tuple(args[1])
        if jnp.shape(value) != shape:
            raise ScopeParamShapeError(name, "/".join(self.path), jnp.shape(value), shape)
        return value


class GatheringModule(ParamModule):
    """A module that gathers each sharded weight when it uses it; see `Compute.gather`."""

    gather: GatherFn | None = None

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return a weight; a shard is not checked, for the shapes asked for are the full ones."""
        # at initialisation the full shapes are wanted, and there is nothing to gather
        if self.gather is None or self.is_initializing():
            return super().param(name, *args, **kwargs)
        part = self.get_variable("params", name)
        return self.gather((*self.path, name), part, self.dtype)  # pyright: ignore


class Dense(GatheringModule, nn.Dense):
    """Flax's linear layer with gathered weights."""


class Conv(GatheringModule, nn.Conv):
    """Flax's convolution with gathered weights."""


# remat of a single layer keeps its input and drops the gathered weight until the backward pass
RegatheringDense, RegatheringConv = nn.remat(Dense), nn.remat(Conv)


def dense(features: int, name: str, compute: Compute, *, use_bias: bool = True) -> nn.Module:
    """Return a linear layer on the last axis, named `name`."""
    kind = RegatheringDense if compute.gather and compute.regather else Dense
    return kind(
        features=features, use_bias=use_bias, dtype=compute.dtype, gather=compute.gather, name=name
    )


def conv(
    features: int,
    name: str | None,
    compute: Compute,
    *,
    size: int = 3,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
    dtype: DTypeLike | None = None,
) -> nn.Module:
    """Return a square convolution named `name`; `padding` is (before, after), "same" by default.

    The padding is explicit because "SAME" at stride 2 pads even sizes by (0, 1), not (1, 1).
    `dtype` overrides the compute dtype.
    """
    pad = (size // 2, size // 2) if padding is None else padding
    kind = RegatheringConv if compute.gather and compute.regather else Conv
    # convolve replaces two cases that XLA computes slowly; parameters stay Flax's
    return kind(
        features=features,
        kernel_size=(size, size),
        strides=stride,
        padding=(pad, pad),
        dtype=compute.dtype if dtype is None else dtype,
        gather=compute.gather,
        conv_general_dilated=convolve,
        name=name,
    )


class LayerNorm(ParamModule, nn.LayerNorm):
    """Flax's LayerNorm."""


def layer_norm(name: str, compute: Compute) -> LayerNorm:
    """Return a LayerNorm named `name`: epsilon 1e-5, statistics in float32."""
    # the fast variance, E[x^2] - E[x]^2, cancels badly where the mean is large
    return LayerNorm(1e-5, compute.dtype, use_fast_variance=False, name=name)


class GroupNorm(ParamModule):
    """Group normalisation over height, width and the channels of each of `groups` groups.

    Statistics are float32 and two-pass. Sums are taken per channel first and per group second,
    which reduces along contiguous memory and keeps a channel-sharded array in its layout.
    """

    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        # bfloat16 has 8 bits: sums over a group's pixels would lose all but the first few hundred
        x = x.astype(jnp.float32)
        mean, variance = self.moments(x)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        return ((x - mean) * (inverse * scale) + bias).astype(self.dtype)

    def moments(
        self, x: Float[Array, "b h w c"], share: Float[Array, "h w"] | None = None
    ) -> tuple[Float[Array, "b 1 1 c"], Float[Array, "b 1 1 c"]]:
        """Return each group's mean and variance, repeated for each of its channels.

        `share` holds pixel weights that sum to 1; None weighs all pixels equally.
        """
        mean = self._group_mean(x, share)
        return mean, self._group_mean(jnp.square(x - mean), share)

    def _group_mean(
        self, x: Float[Array, "b h w c"], share: Float[Array, "h w"] | None
    ) -> Float[Array, "b 1 1 c"]:
        batch, channels = x.shape[0], x.shape[-1]
        means = x.mean((1, 2)) if share is None else (x * share[:, :, None]).sum((1, 2))
        means = means.reshape(batch, self.groups, -1).mean(-1)
        return jnp.repeat(means, channels // self.groups, axis=-1)[:, None, None]
