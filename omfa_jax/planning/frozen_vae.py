"""The frozen VAE of a step on pictures, and the memory of sampling: networks that run forward."""

import math
from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jaxtyping import Array

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.core.trees import flatten
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import (
    Compute,
    UNetConfig,
    VAEConfig,
    apply_unet,
    decode_any_size,
    encode_any_size,
    get_unet_shapes,
    get_vae_shapes,
)
from omfa_jax.models.attention import attention
from omfa_jax.planning.flops import count_vae_flops
from omfa_jax.planning.live_bytes import compute_live_bytes
from omfa_jax.weights.text_encoders import TEXT_TOKENS


def get_encoded_sizes(diffusion: DiffusionSettings) -> tuple[tuple[int, int], ...]:
    """Return (height, width) in pixels of what the step encodes: components and pose map."""
    sizes = dict(zip(COMPONENTS, diffusion.slots_px, strict=True))
    return (*sizes.values(), sizes["person"])


def count_encoding_flops(diffusion: DiffusionSettings, config: VAEConfig) -> int:
    """Return the FLOPs per example of encoding its pictures; nothing flows back through them."""
    sizes = get_encoded_sizes(diffusion)
    return sum(count_vae_flops(config, *size)[0].total.forward for size in sizes)


def compute_encoding_bytes(
    diffusion: DiffusionSettings, config: VAEConfig, rows: int, dtype: str
) -> int:
    """Return the bytes that encoding `rows` examples takes at its peak, weights excluded.

    The pictures are encoded one kind after the other, so the largest kind decides.
    """
    largest = max(get_encoded_sizes(diffusion), key=math.prod)
    return _measure_encoding(config, (rows, *largest), dtype)


@lru_cache(maxsize=64)
def _measure_encoding(config: VAEConfig, shape: tuple[int, int, int], dtype: str) -> int:
    return compute_live_bytes(
        lambda params, images: encode_any_size(config, params, images, dtype=dtype),
        get_vae_shapes(config),
        Shape((*shape, 3), jnp.float32),
    )


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes of a device that samples `pictures` at once: `omfa sample` on one accelerator.

    `weights_bytes` are float32, as loaded; `cast_bytes` a copy in the compute dtype of the UNet's
    weights outside its stacked transformer blocks, which XLA makes before the loop (the blocks' are
    cast one at a time); `unet_bytes` and `vae_bytes` what a call of each takes beside.
    """

    pictures: int
    weights_bytes: int
    cast_bytes: int
    unet_bytes: int
    vae_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak: the copy is kept while pictures are decoded."""
        return self.weights_bytes + self.cast_bytes + max(self.unet_bytes, self.vae_bytes)

    def count_fitting(self, usable_bytes: float) -> int:
        """Return how many pictures at once take `usable_bytes`: the calls' memory is linear."""
        left = usable_bytes - self.weights_bytes - self.cast_bytes
        return max(0, int(left * self.pictures // max(self.unet_bytes, self.vae_bytes)))


@lru_cache(maxsize=64)
def compute_sampling_memory(
    diffusion: DiffusionSettings,
    unet: UNetConfig,
    vae: VAEConfig,
    pictures: int,
    *,
    guidance: bool,
    dtype: str,
    fused_attention: bool,
) -> SamplingMemory:
    """Return the memory of sampling, with guidance (twice the rows) or without.

    Decoding is that of the largest slot: components are decoded one after the other.
    """
    height, width, channels = diffusion.canvas.shape
    rows = pictures * (2 if guidance else 1)
    unet_shapes, vae_shapes = get_unet_shapes(unet), get_vae_shapes(vae)
    itemsize = jnp.dtype(dtype).itemsize
    loose = [leaf for path, leaf in flatten(unet_shapes) if "transformer_blocks" not in path]
    largest = max(diffusion.canvas.slots, key=math.prod)
    # encoding that size takes less: a decoder is wider at full resolution
    decoding = compute_live_bytes(
        lambda params, latents: decode_any_size(vae, params, latents, dtype=dtype),
        vae_shapes,
        Shape((pictures, *largest, channels), jnp.float32),
    )
    kernel = _fused if fused_attention else attention
    cast = jax.tree.map(lambda leaf: Shape(leaf.shape, jnp.dtype(dtype)), unet_shapes)
    compute = Compute(jnp.dtype(dtype), kernel=kernel)
    calling = compute_live_bytes(
        lambda params, x, t, context, pooled, ids: apply_unet(
            unet, params, x, t, context, pooled, ids, compute
        ),
        cast,
        Shape((rows, height, width, unet.in_channels), jnp.float32),
        Shape((rows,), jnp.int32),
        Shape((rows, TEXT_TOKENS, unet.context_dim), jnp.float32),
        Shape((rows, unet.pooled_dim), jnp.float32),
        Shape((rows, 6), jnp.float32),
    )
    # x_t, its prediction, the clean canvas and the pose, in float32
    canvases = 4 * 4 * pictures * height * width * channels
    return SamplingMemory(
        pictures=pictures,
        weights_bytes=4 * (_count(unet_shapes) + _count(vae_shapes)),
        cast_bytes=itemsize * _count(loose) if itemsize != 4 else 0,
        unet_bytes=calling + canvases,
        vae_bytes=decoding + canvases,
    )


def _fused(q: Array, k: Array, v: Array) -> Array:
    """Stand in for a fused kernel: reads q, k and v, writes its output, stores no scores."""
    return jax.pure_callback(lambda q, k, v: q, Shape(q.shape, q.dtype), q, k, v)


def _count(shapes: object) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
