"""Memory of a training step's activations, computed from shapes alone."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jaxtyping import Array

from omfa_jax.core.trees import flatten
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import Compute, UNetConfig, apply_unet, get_unet_shapes
from omfa_jax.models.attention import attention
from omfa_jax.train.settings import TrainSettings


def compute_activation_bytes(
    diffusion: DiffusionSettings,
    config: UNetConfig,
    train: TrainSettings,
    rows: int,
    *,
    fused_attention: bool,
    text_tokens: int,
) -> int:
    """Return the bytes of activations that `rows` examples keep for the backward pass.

    Counts the residuals that JAX saves in the compute dtype. Residuals of other dtypes are casts
    that XLA recomputes, and weights are counted elsewhere. `fused_attention`: the (tokens, tokens)
    scores are never stored.
    """
    height, width, _ = diffusion.canvas.shape
    return _count_residual_bytes(
        config,
        (rows, height, width),
        train.compute_dtype,
        train.remat,
        fused_attention=fused_attention,
        text_tokens=text_tokens,
    )


# tracing SDXL takes seconds, and the search for overrides that fit plans the same step often
@functools.lru_cache(maxsize=64)
def _count_residual_bytes(
    config: UNetConfig,
    shape: tuple[int, int, int],
    dtype: str,
    remat: str,
    *,
    fused_attention: bool,
    text_tokens: int,
) -> int:
    rows = shape[0]
    compute = Compute(
        jnp.dtype(dtype),
        remat=remat,
        kernel=_fused if fused_attention else None,
        # casts as fsdp's gather does, so that residuals have the step's dtypes
        gather=lambda path, part, dtype: part.astype(dtype),
    )
    params = get_unet_shapes(config)

    def backward(params: Any, x: Array, t: Array, context: Array, pooled: Array, ids: Array) -> Any:
        def run(p: Any) -> Array:
            return apply_unet(config, p, x, t, context, pooled, ids, compute)

        return jax.vjp(run, params)[1]

    kept = jax.eval_shape(
        backward,
        params,
        Shape((*shape, config.in_channels), jnp.float32),
        Shape((rows,), jnp.int32),
        Shape((rows, text_tokens, config.context_dim), jnp.float32),
        Shape((rows, config.pooled_dim), jnp.float32),
        Shape((rows, 6), jnp.float32),
    )
    return sum_residual_bytes(kept, params, compute.dtype)


def sum_residual_bytes(kept: Any, params: Mapping[str, Any], dtype: Any) -> int:
    """Return the bytes of a vjp's residuals in the compute dtype that are not weights."""
    # residuals carry no names: weights among them are recognised by shape
    weights = collect_weight_shapes(params)
    return sum(
        get_nbytes(leaf)
        for leaf in jax.tree.leaves(kept)
        if leaf.shape not in weights and leaf.dtype == dtype
    )


def compute_recompute_bytes(
    diffusion: DiffusionSettings,
    config: UNetConfig,
    train: TrainSettings,
    rows: int,
    *,
    fused_attention: bool,
) -> int:
    """Return the bytes of the largest block that the backward pass recomputes at a time.

    Per token of c channels: three norms, seven projections, two attention outputs and 18 c of the
    feed-forward, 30 c in all, in the compute dtype; and its row of scores, unless attention is
    fused.
    """
    if train.remat == "none":
        return 0
    itemsize = jnp.dtype(train.compute_dtype).itemsize
    height, width, _ = diffusion.canvas.shape
    most = 0
    for level, channels in enumerate(config.block_channels):
        if config.transformer_depth[level]:
            # rounded up, as stride-2 convolutions do
            tokens = -(-height // 2**level) * -(-width // 2**level)
            scores = 0 if fused_attention else config.heads[level] * tokens * (4 + itemsize)
            layers = 0 if train.remat == "attention" else 30 * channels * itemsize
            most = max(most, rows * tokens * (layers + scores))
    return most


def collect_weight_shapes(params: Mapping[str, Any]) -> set[tuple[int, ...]]:
    """Return the shapes of all weights; for stacked layers also the shape of one layer."""
    shapes = set()
    for path, leaf in flatten(params):
        shapes.add(leaf.shape)
        if "transformer_blocks" in path:
            shapes.add(leaf.shape[1:])
    return shapes


def find_largest_layer(params: Mapping[str, Any]) -> int:
    """Return the number of weights of the largest layer, the unit that fsdp gathers at a time."""
    units: dict[tuple[str, ...], int] = {}
    for path, leaf in flatten(params):
        # stacked blocks are gathered one at a time, inside the scan
        if "transformer_blocks" in path:
            unit = path[: path.index("transformer_blocks") + 1]
            size = math.prod(leaf.shape[1:])
        else:
            unit, size = path[:-1], math.prod(leaf.shape)
        units[unit] = units.get(unit, 0) + size
    return max(units.values())


def get_nbytes(leaf: Any) -> int:
    """Return the bytes of an array or a ShapeDtypeStruct."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


@jax.custom_vjp
def _fused(q: Array, k: Array, v: Array) -> Array:
    """Stand in for a fused kernel: keeps the residuals that such kernels keep."""
    return attention(q, k, v)


def _fused_forward(q: Array, k: Array, v: Array) -> Any:
    out = _fused(q, k, v)
    batch, length, heads, _ = q.shape
    # the last one is the log-sum-exp of each query's scores
    return out, (q, k, v, out, jnp.zeros((batch, heads, length), jnp.float32))


def _fused_backward(kept: Any, gradient: Array) -> tuple[Array, Array, Array]:
    return kept[0], kept[1], kept[2]


_fused.defvjp(_fused_forward, _fused_backward)
