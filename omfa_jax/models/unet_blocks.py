"""The down, middle and up blocks of the UNet, each with or without transformers."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from omfa_jax.models.compute import Compute
from omfa_jax.models.network_config import UNetConfig
from omfa_jax.models.resnet import Downsample, ResnetBlock, Upsample
from omfa_jax.models.transformer import Transformer


def _resnet(config: UNetConfig, level: int, index: int, compute: Compute) -> nn.Module:
    kind = ResnetBlock
    if compute.remat == "full":
        kind, compute = nn.remat(ResnetBlock), compute.without_regather()
    channels = config.block_channels[level]
    return kind(channels, config.norm_groups, 1e-5, compute, name=f"resnets.{index}")


def _transformer(config: UNetConfig, level: int, index: int, compute: Compute) -> nn.Module:
    return Transformer(
        config.transformer_depth[level],
        config.heads[level],
        config.norm_groups,
        compute,
        name=f"attentions.{index}",
    )


class DownBlock(nn.Module):
    """One level of the down path; returns its output and its skips for the up path."""

    config: UNetConfig
    level: int
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        time: Float[Array, "b e"],
        context: Float[Array, "b l d"],
    ) -> tuple[Float[Array, "b h2 w2 c_out"], list[Array]]:
        config, level, compute = self.config, self.level, self.compute
        skips = []
        for index in range(config.layers_per_block):
            x = _resnet(config, level, index, compute)(x, time)
            if config.transformer_depth[level]:
                x = _transformer(config, level, index, compute)(x, context)
            skips.append(x)
        if level < len(config.block_channels) - 1:
            x = Downsample((1, 1), compute, name="downsamplers.0")(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """Resnet, transformer, resnet at the lowest level; a single resnet where the depth is 0."""

    config: UNetConfig
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"], context: Float[Array, "b l d"]
    ) -> Float[Array, "b h w c"]:
        level = len(self.config.block_channels) - 1
        x = _resnet(self.config, level, 0, self.compute)(x, time)
        # diffusers' middle block without attention has one resnet
        if not self.config.transformer_depth[level]:
            return x
        x = _transformer(self.config, level, 0, self.compute)(x, context)
        return _resnet(self.config, level, 1, self.compute)(x, time)


class UpBlock(nn.Module):
    """One level of the up path; pops its skips from the end of `skips`.

    It has one resnet more than the down path, because each downsampling leaves a skip too.
    """

    config: UNetConfig
    level: int
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        skips: list[Array],
        time: Float[Array, "b e"],
        context: Float[Array, "b l d"],
    ) -> Float[Array, "b h2 w2 c_out"]:
        config, level, compute = self.config, self.level, self.compute
        for index in range(config.layers_per_block + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = _resnet(config, level, index, compute)(x, time)
            if config.transformer_depth[level]:
                x = _transformer(config, level, index, compute)(x, context)
        if level:
            # an odd size was rounded up on the way down, so doubling may give one pixel too many
            _, height, width, _ = skips[-1].shape
            x = Upsample(compute, name="upsamplers.0")(x, (height, width))
        return x
