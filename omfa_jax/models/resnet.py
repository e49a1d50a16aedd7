"""The residual block and the resampling layers that UNet and VAE share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from omfa_jax.models.compute import IMAGE_AXES, Compute
from omfa_jax.models.layers import GroupNorm, conv, dense


class ResnetBlock(nn.Module):
    """Two normed convolutions added to the input; a time embedding, if given, goes in between."""

    features: int
    groups: int
    epsilon: float
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c_in"], time: Float[Array, "b e"] | None = None
    ) -> Float[Array, "b h w c_out"]:
        compute, dtype = self.compute, self.compute.dtype

        def normed(name: str, array: Array) -> Array:
            return jax.nn.silu(GroupNorm(self.groups, self.epsilon, dtype, name=name)(array))

        hidden = conv(self.features, "conv1", compute)(normed("norm1", x))
        if time is not None:
            shift = dense(self.features, "time_emb_proj", compute)(jax.nn.silu(time))
            hidden = hidden + shift[:, None, None]
        hidden = conv(self.features, "conv2", compute)(normed("norm2", hidden))
        # diffusers has this layer only where the width changes
        if x.shape[-1] != self.features:
            x = conv(self.features, "conv_shortcut", compute, size=1)(x)
        return compute.constrain_activation(x.astype(dtype) + hidden, IMAGE_AXES)


class Downsample(nn.Module):
    """A convolution of stride 2, with `padding` (1, 1) in the UNet and (0, 1) in the VAE."""

    padding: tuple[int, int]
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        layer = conv(x.shape[-1], "conv", self.compute, stride=2, padding=self.padding)
        return self.compute.constrain_activation(layer(x), IMAGE_AXES)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two, followed by a convolution.

    `size` (height, width) crops the result where the level above had an odd size, which equals
    nearest-neighbour resizing to that size.
    """

    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        # repeat and not jax.image.resize: exact copies, and cheap to differentiate
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return self.compute.constrain_activation(
            conv(x.shape[-1], "conv", self.compute)(x), IMAGE_AXES
        )
