"""SDXL's autoencoder: images to a Gaussian over latents, and latents to images."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from omfa_jax.models.attention import attend, attention, chunked_attention
from omfa_jax.models.compute import IMAGE_AXES, Compute
from omfa_jax.models.layers import GroupNorm, conv
from omfa_jax.models.network_config import VAEConfig
from omfa_jax.models.resnet import Downsample, ResnetBlock, Upsample

NORM_EPSILON = 1e-6

# Up to the latent pixels of a 1024 x 1024 image, attention computes all queries at once (2^28
# scores, 1 GiB); beyond that it computes chunks of CHUNK_SCORES scores (256 MiB).
MAX_UNCHUNKED_TOKENS = 128 * 128
CHUNK_SCORES = 2**26


def make_vae_compute(config: VAEConfig, dtype: DTypeLike) -> Compute:
    """Return the compute settings of the VAE for a requested `dtype`.

    float16 becomes float32 unless the config's `force_upcast` is False: the residual stream of
    SDXL's VAE exceeds float16's maximum of 65504, and the next norm turns infinity into NaN.
    bfloat16 has float32's range and is used as requested.
    """
    dtype = jnp.dtype(dtype)
    return Compute(jnp.float32 if config.force_upcast and dtype == jnp.float16 else dtype)


class SpatialAttention(nn.Module):
    """Single-head attention over all pixels, with a residual."""

    groups: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        tokens = GroupNorm(self.groups, NORM_EPSILON, self.compute.dtype, name="group_norm")(x)
        tokens = tokens.reshape(x.shape[0], -1, x.shape[-1])
        kernel, length = attention, tokens.shape[1]
        if length > MAX_UNCHUNKED_TOKENS:
            kernel = functools.partial(chunked_attention, run=max(1, CHUNK_SCORES // length))
        mixed = attend(tokens, tokens, 1, self.compute, use_bias=True, kernel=kernel)
        return x + mixed.reshape(x.shape)


class ResnetLevel(nn.Module):
    """Resnets at one resolution, followed by resampling: "down", "up" or None."""

    features: int
    layers: int
    resample: str | None
    groups: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c_in"]) -> Float[Array, "b h2 w2 c_out"]:
        for index in range(self.layers):
            name = f"resnets.{index}"
            x = ResnetBlock(self.features, self.groups, NORM_EPSILON, self.compute, name=name)(x)
        if self.resample == "down":
            x = Downsample((0, 1), self.compute, name="downsamplers.0")(x)
        if self.resample == "up":
            x = Upsample(self.compute, name="upsamplers.0")(x)
        return x


class VAEMidBlock(nn.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    groups: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        features, groups, compute = x.shape[-1], self.groups, self.compute
        x = ResnetBlock(features, groups, NORM_EPSILON, compute, name="resnets.0")(x)
        x = SpatialAttention(groups, compute, name="attentions.0")(x)
        return ResnetBlock(features, groups, NORM_EPSILON, compute, name="resnets.1")(x)


class Encoder(nn.Module):
    """Images to the posterior's mean and log-variance, concatenated on channels."""

    config: VAEConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        config, compute = self.config, self.compute
        groups, last = config.norm_groups, len(config.block_channels) - 1
        x = compute.constrain_activation(
            conv(config.block_channels[0], "conv_in", compute)(x), IMAGE_AXES
        )
        for index, features in enumerate(config.block_channels):
            resample = "down" if index < last else None
            layers, name = config.layers_per_block, f"down_blocks.{index}"
            x = ResnetLevel(features, layers, resample, groups, compute, name=name)(x)
        x = VAEMidBlock(groups, compute, name="mid_block")(x)
        x = jax.nn.silu(GroupNorm(groups, NORM_EPSILON, name="conv_norm_out")(x))
        # float32, so that latents are not rounded to bfloat16
        return conv(2 * config.latent_channels, "conv_out", compute, dtype=jnp.float32)(x)


class Decoder(nn.Module):
    """Unscaled latents to images."""

    config: VAEConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        config, compute = self.config, self.compute
        groups, last = config.norm_groups, len(config.block_channels) - 1
        x = compute.constrain_activation(
            conv(config.block_channels[-1], "conv_in", compute)(x), IMAGE_AXES
        )
        x = VAEMidBlock(groups, compute, name="mid_block")(x)
        for index, features in enumerate(reversed(config.block_channels)):
            resample = "up" if index < last else None
            layers, name = config.layers_per_block + 1, f"up_blocks.{index}"
            x = ResnetLevel(features, layers, resample, groups, compute, name=name)(x)
        x = jax.nn.silu(GroupNorm(groups, NORM_EPSILON, name="conv_norm_out")(x))
        return conv(3, "conv_out", compute, dtype=jnp.float32)(x)


class VAE(nn.Module):
    """Encoder and decoder, with the 1x1 convolutions on both sides of the latents."""

    config: VAEConfig
    compute: Compute

    def setup(self) -> None:
        """Create the submodules; both 1x1 convolutions are float32."""
        channels = self.config.latent_channels
        self.encoder = Encoder(self.config, self.compute)
        self.quant_conv = conv(2 * channels, None, Compute(), size=1)
        self.post_quant_conv = conv(channels, None, Compute(), size=1)
        self.decoder = Decoder(self.config, self.compute)

    def posterior(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b h2 w2 c"], Float[Array, "b h2 w2 c"]]:
        """Return mean and log-variance of the unscaled latents, the latter within [-30, 20]."""
        # the bounds are diffusers': exp(20) is still far from overflow
        mean, logvar = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Return the images of unscaled latents."""
        return self.decoder(self.post_quant_conv(latents))

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Return the reconstruction from the posterior's mean; it uses every parameter."""
        return self.decode(self.posterior(images)[0])
