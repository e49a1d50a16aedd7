"""Attention kernels: cuDNN on NVIDIA, splash on TPU, XLA elsewhere.

The choice follows the mesh's devices, not the default backend, so that ahead-of-time compilation
for a TPU on a host without one gets the TPU's kernel.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.models.attention import attention
from omfa_jax.models.compute import AttentionKernel

log = logging.getLogger(__name__)

ATTENTION_KERNELS = ("auto", "xla", "cudnn", "splash")
HALF_DTYPES = ("bfloat16", "float16")
# splash's block size must be a multiple of LANES that divides the sequence length; the limit keeps
# a block of queries, keys and scores within VMEM
LANES, MAX_BLOCK_TOKENS = 128, 1024


def select_attention_kernel(name: str, platform: str, dtype: DTypeLike) -> str:
    """Return "xla", "cudnn" or "splash" for devices of `platform` (as JAX names it).

    A kernel that the platform or the dtype does not support is an OmfaError.
    """
    if name not in ATTENTION_KERNELS:
        raise make_unknown_name_error("config.train.attention", name, ATTENTION_KERNELS)
    half = jax.numpy.dtype(dtype).name in HALF_DTYPES
    native = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}.get(platform, "xla")
    if native == "cudnn" and not half:
        native = "xla"
    if name not in ("auto", "xla", native):
        raise OmfaError(
            f"config.train.attention={name} does not run on {platform} devices in"
            f" {jax.numpy.dtype(dtype).name} (cudnn: NVIDIA in bfloat16; splash: TPU); auto"
            f" selects {native}"
        )
    return native if name == "auto" else name


def get_attention_kernel(name: str, mesh: Mesh | None = None) -> AttentionKernel | None:
    """Return the kernel `name` for self-attention over image tokens; None for XLA's.

    Heads are sharded over the mesh's tensor axis. Sequence lengths that the kernel does not support
    fall back to XLA with a warning.
    """
    kernels: dict[str, AttentionKernel | None] = {
        "xla": None,
        "cudnn": cudnn_attention,
        "splash": splash_attention,
    }
    kernel = kernels[name]
    if kernel is not None and mesh is not None and mesh.shape["tensor"] > 1:
        return functools.partial(_run_per_head_shard, kernel, mesh)
    return kernel


def cudnn_attention(
    q: Float[Array, "b l n d"], k: Float[Array, "b s n d"], v: Float[Array, "b s n d"]
) -> Float[Array, "b l n d"]:
    """Return cuDNN's fused attention."""
    try:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    except (NotImplementedError, RuntimeError, ValueError) as error:
        _warn_fallback("cudnn", q.shape[1], str(error).splitlines()[0])
        return attention(q, k, v)


def splash_attention(
    q: Float[Array, "b l n d"],
    k: Float[Array, "b s n d"],
    v: Float[Array, "b s n d"],
    *,
    interpret: bool = False,
) -> Float[Array, "b l n d"]:
    """Return JAX's splash attention for TPUs; `interpret` emulates it on any device, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    if queries % LANES or keys % LANES:
        _warn_fallback("splash", queries, f"it needs lengths that are multiples of {LANES}")
        return attention(q, k, v)
    rows, columns = _block_size(queries), _block_size(keys)
    full = splash_attention_mask.FullMask((queries, keys))
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([full] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_kv_compute=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_kv_dkv_compute=columns,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # splash takes (heads, length, channels) and does not scale the queries
    q, k, v = (array.swapaxes(1, 2) for array in (q * q.shape[-1] ** -0.5, k, v))
    mixed: Any = jax.vmap(kernel)(q, k, v)
    return mixed.swapaxes(1, 2)


def _block_size(length: int) -> int:
    return max(b for b in range(LANES, MAX_BLOCK_TOKENS + 1, LANES) if length % b == 0)


def _run_per_head_shard(
    kernel: Callable[..., Array], mesh: Mesh, q: Array, k: Array, v: Array
) -> Array:
    """Run a kernel on each device's own heads; XLA cannot partition a custom kernel."""
    if q.shape[2] % mesh.shape["tensor"]:
        _warn_fallback("a kernel", q.shape[1], f"tensor does not divide {q.shape[2]} heads")
        return attention(q, k, v)
    heads = PartitionSpec(None, None, "tensor")
    within = jax.sharding.get_abstract_mesh()
    here = mesh if within.empty else within
    # a custom kernel needs every axis manual, those of size 1 included
    free = set(here.axis_names) - set(within.manual_axes)
    cut = jax.shard_map(
        kernel, mesh=here, in_specs=heads, out_specs=heads, axis_names=free, check_vma=False
    )
    return cut(q, k, v)


@functools.cache
def _warn_fallback(name: str, length: int, reason: str) -> None:
    log.warning("attention over %d tokens falls back from %s to xla: %s", length, name, reason)
