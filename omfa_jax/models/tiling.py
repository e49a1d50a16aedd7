"""The VAE on large images, tile by tile, with the result of the untiled network.

Independent tiles of a VAE do not match at their borders: its norms take statistics over the
complete image, and its middle block attends over all of it. Here the middle block, at the
resolution of the latents, is not tiled. Each level is a stage that runs on windows: a tile and as
many pixels around it as the stage's convolutions reach, clipped at the borders of the image, so
that padding occurs exactly where the untiled network has it. The statistics of a stage's norms are
computed one after the other, each in a pass over all windows that uses the earlier ones; dead code
elimination removes from a pass what comes after its norm. Nothing is blended or estimated: the only
difference is float32 rounding.

Memory holds a stage's input and output, but never the widest activations at full resolution. The
cost is that a stage is computed about five times.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from omfa_jax.core.errors import OmfaError
from omfa_jax.models.compute import Compute, Params
from omfa_jax.models.layers import GroupNorm, conv
from omfa_jax.models.network_api import decode, encode
from omfa_jax.models.network_config import VAEConfig
from omfa_jax.models.resnet import Upsample
from omfa_jax.models.vae import NORM_EPSILON, ResnetLevel, VAEMidBlock, make_vae_compute

# Above this many latent pixels (a 1024 x 1024 image of SDXL's VAE) tiles are worth their cost: at
# this size SDXL's untiled decoder needs 2.7 GB in float32, and memory grows in proportion.
MAX_UNTILED_LATENT_PX = 128 * 128
TILE_LATENT_PX = 64

# without names: a name would force input and output, or all norms of a stage, to one size
Images = Float[Array, "b _ _ _"]
Image = Float[Array, "_ _ _"]
Spot = dict[str, Array]
Moments = tuple[Float[Array, "b 1 1 _"], Float[Array, "b 1 1 _"]]


def decode_any_size(
    config: VAEConfig, params: Params, latents: Images, *, dtype: DTypeLike = jnp.float32
) -> Images:
    """Return `decode`, tiled if an image has more than MAX_UNTILED_LATENT_PX latent pixels."""
    big = latents.shape[1] * latents.shape[2] > MAX_UNTILED_LATENT_PX
    return (decode_tiled if big else decode)(config, params, latents, dtype=dtype)


def encode_any_size(
    config: VAEConfig, params: Params, images: Images, *, dtype: DTypeLike = jnp.float32
) -> Images:
    """Return `encode`, tiled if an image has more than MAX_UNTILED_LATENT_PX latent pixels."""
    big = images.shape[1] * images.shape[2] > MAX_UNTILED_LATENT_PX * config.stride**2
    return (encode_tiled if big else encode)(config, params, images, dtype=dtype)


def decode_tiled(
    config: VAEConfig,
    params: Params,
    latents: Images,
    *,
    tile: int = TILE_LATENT_PX,
    dtype: DTypeLike = jnp.float32,
) -> Images:
    """Return the same images as `decode`, computed one image and one tile at a time.

    `tile` is the side of a tile in latent pixels; the overlap follows from the receptive field.
    """
    compute = make_vae_compute(config, dtype)
    groups, parts = config.norm_groups, params["decoder"]
    before = conv(config.latent_channels, None, Compute(), size=1)
    conv_in = conv(config.block_channels[-1], None, compute)

    # conv_in and the middle block are not tiled: at latent resolution they are small
    def one(z: Image) -> Image:
        x = _run(before, params["post_quant_conv"], z[None] / config.scaling_factor)
        x = _run(conv_in, parts["conv_in"], x)
        x = _run(VAEMidBlock(groups, compute), parts["mid_block"], x)
        for index, stage in enumerate(_decoder_stages(config, parts, compute)):
            x = _run_tiled(stage, x, tile * 2 ** max(0, index - 1))
        return x[0]

    return jax.lax.map(one, latents)


def encode_tiled(
    config: VAEConfig,
    params: Params,
    images: Images,
    *,
    tile: int = TILE_LATENT_PX,
    dtype: DTypeLike = jnp.float32,
) -> Images:
    """Return the same latents as `encode` without a key, computed one image and tile at a time.

    Height and width of `images` must be multiples of the VAE's stride; `tile` is as in
    `decode_tiled`.
    """
    if any(side % config.stride for side in images.shape[1:3]):
        raise OmfaError(
            f"images to encode in tiles need sides that are multiples of {config.stride} px, got"
            f" {images.shape[1]} x {images.shape[2]}"
        )
    compute = make_vae_compute(config, dtype)
    groups, parts = config.norm_groups, params["encoder"]
    channels = 2 * config.latent_channels
    norm = GroupNorm(groups, NORM_EPSILON)

    def one(image: Image) -> Image:
        x = image[None]
        for index, stage in enumerate(_encoder_stages(config, parts, compute)):
            x = _run_tiled(stage, x, tile * config.stride // 2**index)
        x = _run(VAEMidBlock(groups, compute), parts["mid_block"], x)
        x = jax.nn.silu(_run(norm, parts["conv_norm_out"], x))
        x = _run(conv(channels, None, Compute()), parts["conv_out"], x)
        x = _run(conv(channels, None, Compute(), size=1), params["quant_conv"], x)
        return config.scaling_factor * x[0, ..., : config.latent_channels]

    return jax.lax.map(one, images)


@dataclass(frozen=True)
class TileStage:
    """A part of the network that is local except for its norms.

    An output pixel depends on `reach` input pixels to each side; `norms` counts the GroupNorms.
    """

    run: Callable[[Images], Images]
    reach: int
    norms: int


def _decoder_stages(config: VAEConfig, params: Params, compute: Compute) -> list[TileStage]:
    """Return one stage per level, each starting with the upsampling of the level before it.

    A stage's input then has the smaller resolution, and the output of the last one is the image.
    """
    groups, last = config.norm_groups, len(config.block_channels) - 1
    layers = config.layers_per_block + 1
    stages = []
    for index, features in enumerate(reversed(config.block_channels)):

        def run(x: Images, index: int = index, features: int = features) -> Images:
            if index:
                x = _run(Upsample(compute), params[f"up_blocks.{index - 1}"]["upsamplers.0"], x)
            level = ResnetLevel(features, layers, None, groups, compute)
            x = _run(level, params[f"up_blocks.{index}"], x)
            if index < last:
                return x
            x = jax.nn.silu(_run(GroupNorm(groups, NORM_EPSILON), params["conv_norm_out"], x))
            return _run(conv(3, None, Compute()), params["conv_out"], x)

        ends = int(index == last)
        convolutions = 2 * layers + ends
        # after upsampling two pixels are one of the input, and upsampling has a convolution too
        reach = math.ceil((1 + convolutions) / 2) if index else convolutions
        stages.append(TileStage(run, reach, 2 * layers + ends))
    return stages


def _encoder_stages(config: VAEConfig, params: Params, compute: Compute) -> list[TileStage]:
    """Return one stage per level; conv_in is in the first, a downsampling ends all but the last."""
    groups, last = config.norm_groups, len(config.block_channels) - 1
    layers = config.layers_per_block
    stages = []
    for index, features in enumerate(config.block_channels):

        def run(x: Images, index: int = index, features: int = features) -> Images:
            if index == 0:
                x = _run(conv(features, None, compute), params["conv_in"], x)
            level = ResnetLevel(features, layers, "down" if index < last else None, groups, compute)
            return _run(level, params[f"down_blocks.{index}"], x)

        convolutions = int(index == 0) + 2 * layers + int(index < last)
        # windows start at even pixels, where the convolution of stride 2 has its outputs
        stages.append(TileStage(run, convolutions + convolutions % 2, 2 * layers))
    return stages


@dataclass(frozen=True)
class TileAxis:
    """The tiles along one axis: `tile_size` pixels each, in a window of `window_size` pixels.

    Tile i starts at pixel `tile_starts[i]` and its window at `window_starts[i]`; `owned` is 1 for
    pixels of the window that belong to the tile and to no earlier tile, so that statistics count
    pixels once.
    """

    tile_size: int
    window_size: int
    tile_starts: np.ndarray
    window_starts: np.ndarray
    owned: np.ndarray


def _axis(length: int, tile: int, reach: int) -> TileAxis:
    if length <= tile + 2 * reach:
        zero = np.zeros(1, np.int32)
        return TileAxis(length, length, zero, zero, np.ones((1, length), np.float32))
    size = tile + 2 * reach
    starts = np.arange(0, length, tile)
    # the last tile is moved back into the image, and so are windows at either border: all have one
    # shape, and one program serves them all
    tiles = np.minimum(starts, length - tile).astype(np.int32)
    windows = np.clip(tiles - reach, 0, length - size).astype(np.int32)
    pixels = windows[:, None] + np.arange(size)
    owned = (pixels >= starts[:, None]) & (pixels < starts[:, None] + tile)
    return TileAxis(tile, size, tiles, windows, owned.astype(np.float32))


def _run_tiled(stage: TileStage, x: Images, tile: int) -> Images:
    """Return `stage.run(x)`, computed in tiles of `tile` pixels with norms over all of `x`."""
    rows, columns = (_axis(length, tile, stage.reach) for length in x.shape[1:3])
    i, j = np.indices((len(rows.tile_starts), len(columns.tile_starts))).reshape(2, -1)
    spots = {
        "window": jnp.stack([rows.window_starts[i], columns.window_starts[j]], axis=1),
        "tile": jnp.stack([rows.tile_starts[i], columns.tile_starts[j]], axis=1),
        "rows": jnp.asarray(rows.owned[i]),
        "columns": jnp.asarray(columns.owned[j]),
    }
    shares = rows.owned[i].sum(1) * columns.owned[j].sum(1)
    shares = jnp.asarray(shares / shares.sum())[:, None, None, None, None]

    def window(spot: Spot) -> Images:
        size = (x.shape[0], rows.window_size, columns.window_size, x.shape[3])
        return jax.lax.dynamic_slice(x, (0, *spot["window"], 0), size)

    known: list[Moments] = []
    for index in range(stage.norms):

        def moments(spot: Spot, index: int = index) -> Moments:
            owned = spot["rows"][:, None] * spot["columns"]
            return _run_with_norms(stage.run, window(spot), known, owned)[1][index]

        means, variances = jax.lax.map(moments, spots)
        # the law of total variance: within the tiles, plus between them
        mean = (shares * means).sum(0)
        known.append((mean, (shares * (variances + jnp.square(means - mean))).sum(0)))

    def output(spot: Spot) -> Images:
        return _run_with_norms(stage.run, window(spot), known, None)[0]

    made = jax.eval_shape(output, jax.tree.map(lambda array: array[0], spots))

    def scaled(pixels):
        return pixels * made.shape[1] // rows.window_size

    def paste(whole: Images, spot: Spot) -> tuple[Images, None]:
        inner = scaled(spot["tile"] - spot["window"])
        size = (x.shape[0], scaled(rows.tile_size), scaled(columns.tile_size), made.shape[3])
        kept = jax.lax.dynamic_slice(output(spot), (0, *inner, 0), size)
        return jax.lax.dynamic_update_slice(whole, kept, (0, *scaled(spot["tile"]), 0)), None

    shape = (x.shape[0], scaled(x.shape[1]), scaled(x.shape[2]), made.shape[3])
    return jax.lax.scan(paste, jnp.zeros(shape, made.dtype), spots)[0]


def _run_with_norms(
    run: Callable[[Images], Images],
    x: Images,
    known: list[Moments],
    owned: Float[Array, "h w"] | None,
) -> tuple[Images, list[Moments]]:
    """Return `run(x)` with `known` moments in its norms, and the moments of the owned pixels.

    Norms are numbered in the order of execution. Norms without known moments use the window's own,
    which is harmless because no caller uses what comes after them. With `owned` None the returned
    moments are meaningless.
    """
    seen: list[Moments] = []

    def hook(method, inputs, keywords, context):
        if not (isinstance(context.module, GroupNorm) and context.method_name == "moments"):
            return method(*inputs, **keywords)
        (array,) = inputs
        share = None
        if owned is not None:
            zoom = array.shape[1] // owned.shape[0]
            share = jnp.repeat(jnp.repeat(owned, zoom, 0), zoom, 1)
            share = share / share.sum()
        index = len(seen)
        seen.append(method(array, share))
        return known[index] if index < len(known) else seen[index]

    with nn.intercept_methods(hook):
        return run(x), seen


def _run(module: nn.Module, params: Params, x: Images) -> Images:
    return module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]
