"""SDXL's UNet: noisy latents and a timestep in, a prediction of the same size out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from omfa_jax.models.compute import IMAGE_AXES, Compute
from omfa_jax.models.embeddings import TimestepEmbedding, sinusoidal_embedding
from omfa_jax.models.layers import GroupNorm, conv
from omfa_jax.models.network_config import UNetConfig
from omfa_jax.models.unet_blocks import DownBlock, MidBlock, UpBlock


class UNet(nn.Module):
    """Down levels, a middle block and up levels, with a skip from every layer of the down path.

    Module names joined by dots are the names of the same weights in diffusers
    (UNet2DConditionModel; Podell et al., arXiv 2307.01952).
    """

    config: UNetConfig
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        t: Num[Array, "b"],
        context: Float[Array, "b l d"],
        pooled: Float[Array, "b p"],
        time_ids: Num[Array, "b i"],
    ) -> Float[Array, "b h w c_out"]:
        config, compute = self.config, self.compute
        levels = range(len(config.block_channels))
        context = context.astype(compute.dtype)
        time = self._condition(t, pooled, time_ids)

        x = conv(config.block_channels[0], "conv_in", compute)(x)
        x = compute.constrain_activation(x, IMAGE_AXES)
        # the output of conv_in is a skip too
        skips = [x]
        for level in levels:
            x, left = DownBlock(config, level, compute, name=f"down_blocks.{level}")(
                x, time, context
            )
            skips += left
        x = MidBlock(config, compute, name="mid_block")(x, time, context)
        for index, level in enumerate(reversed(levels)):
            block = UpBlock(config, level, compute, name=f"up_blocks.{index}")
            x = block(x, skips, time, context)

        # float32 from here on: bfloat16 steps near 1 are 0.008, coarse for a prediction of noise
        x = GroupNorm(config.norm_groups, 1e-5, name="conv_norm_out")(x)
        return conv(config.out_channels, "conv_out", compute, dtype=jnp.float32)(jax.nn.silu(x))

    def _condition(
        self, t: Num[Array, "b"], pooled: Float[Array, "b p"], time_ids: Num[Array, "b i"]
    ) -> Float[Array, "b e"]:
        """Return the time embedding plus the embedding of [pooled text, sizes]."""
        config, compute = self.config, self.compute
        sizes = sinusoidal_embedding(time_ids, config.time_id_dim).reshape(time_ids.shape[0], -1)
        # text first, then sizes: the order of the pretrained weights
        added = jnp.concatenate([pooled.astype(jnp.float32), sizes], axis=-1)
        time = TimestepEmbedding(config.time_embed_dim, compute, name="time_embedding")(
            sinusoidal_embedding(t, config.block_channels[0])
        )
        return time + TimestepEmbedding(config.time_embed_dim, compute, name="add_embedding")(added)
