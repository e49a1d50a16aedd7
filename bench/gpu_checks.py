"""What `bench/gpu.py` checks on the device before it is timed: kernels against plain XLA.

A figure is ||found - reference|| / ||reference||, the reference in float32 with exact products.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.gpu_ours import draw_arrays, draw_batch, draw_state, time_call
from bench.gpu_settings import Case, get_unet, make_diffusion, make_train
from omfa_jax.models.attention import attention
from omfa_jax.models.convolution import convolve
from omfa_jax.parallel.attention_kernels import cudnn_attention
from omfa_jax.parallel.mesh import (
    MeshSettings,
    make_batch_sharding,
    make_mesh,
    make_replicated_sharding,
)
from omfa_jax.planning.job import TrainingJob
from omfa_jax.train.aot_step import make_aot_step

# bfloat16 keeps 8 bits: a product's error is near 0.4%, and of a gradient a few times that
BF16_ERROR = 0.02
# of a whole network's loss and gradient norm in bfloat16
STEP_ERROR = 0.05
SAME = ((1, 1), (1, 1))


def check_attention(*, tiny: bool) -> dict[str, Any]:
    """Compare cuDNN's attention, forward and backward, with XLA's at SDXL's two resolutions."""
    sizes = [(64, 2)] if tiny else [(64 * 120, 10), (32 * 60, 20)]
    rows = [_compare_attention(*size) for size in sizes]
    worst = max(row["error"] for row in rows)
    used = all(row["cudnn"] for row in rows)
    on_gpu = jax.default_backend() == "gpu"
    return {
        "passed": worst <= BF16_ERROR and (used or not on_gpu),
        "figure": f"error {worst:.2%} at most (limit {BF16_ERROR:.0%})"
        + ("" if used else "; cuDNN was NOT used" + ("" if on_gpu else ": no NVIDIA device")),
        "rows": rows,
    }


def _compare_attention(tokens: int, heads: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draws = [rng.standard_normal((1, tokens, heads, 64), np.float32) for _ in range(4)]
    q, k, v, g = (jnp.asarray(draw, jnp.bfloat16) for draw in draws)

    def run(kernel: Any) -> Any:
        def both(q: Any, k: Any, v: Any, g: Any) -> Any:
            output, pull = jax.vjp(kernel, q, k, v)
            return output, *pull(g)

        return jax.jit(both)

    with jax.default_matmul_precision("highest"):
        exact = run(attention)(*(array.astype(jnp.float32) for array in (q, k, v, g)))
    fast, plain = run(cudnn_attention), run(attention)
    return {
        "tokens": tokens,
        "heads": heads,
        "cudnn": "__cudnn$fmha" in fast.lower(q, k, v, g).as_text(),
        "error": _max_error(fast(q, k, v, g), exact),
        "xla_error": _max_error(plain(q, k, v, g), exact),
        "seconds": time_call(fast, q, k, v, g),
        "xla_seconds": time_call(plain, q, k, v, g),
    }


def check_convolution(*, tiny: bool) -> dict[str, Any]:
    """Compare the network's 3x3 convolution, NHWC in bfloat16, with float32 and with NCHW."""
    shape, channels = ((1, 16, 24, 8), 8) if tiny else ((2, 128, 240, 320), 320)
    rng = np.random.default_rng(0)
    draws = (shape, (3, 3, shape[3], channels), (*shape[:3], channels))
    x, w, g = (jnp.asarray(rng.standard_normal(d, np.float32), jnp.bfloat16) for d in draws)

    def ours(x: Any, w: Any) -> Any:
        return convolve(x, w, (1, 1), SAME, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def nchw(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(
            x, w, (1, 1), SAME, dimension_numbers=("NCHW", "OIHW", "NCHW")
        )

    def run(function: Any) -> Any:
        def both(x: Any, w: Any, g: Any) -> Any:
            output, pull = jax.vjp(function, x, w)
            return output, *pull(g)

        return jax.jit(both)

    with jax.default_matmul_precision("highest"):
        exact = run(ours)(*(array.astype(jnp.float32) for array in (x, w, g)))
    other = (x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), g.transpose(0, 3, 1, 2))
    fast = run(ours)
    text = fast.lower(x, w, g).compile().as_text() or ""
    error = _max_error(fast(x, w, g), exact)
    seconds, nchw_seconds = time_call(fast, x, w, g), time_call(run(nchw), *other)
    return {
        "passed": error <= BF16_ERROR,
        "figure": f"error {error:.2%} (limit {BF16_ERROR:.0%}); {1e3 * seconds:.2f} ms,"
        f" in NCHW {1e3 * nchw_seconds:.2f}",
        "error": error,
        "seconds": seconds,
        "nchw_seconds": nchw_seconds,
        "layouts": sorted(set(re.findall(r"dim_labels=(\w+->\w+)", text))),
        "targets": sorted(set(re.findall(r'custom_call_target="(__cudnn[^"]*)"', text))),
        "copies": len(re.findall(r"= \S+ (?:copy|transpose)\(", text)),
    }


def check_step(*, tiny: bool) -> dict[str, Any]:
    """Compare one training step in bfloat16 with float32, on a small UNet."""
    # a CPU's bfloat16 says nothing about a GPU's
    dtypes = ("float32" if tiny else "bfloat16", "float32")
    bf16, f32 = (_step_once(dtype) for dtype in dtypes)
    errors = {name: abs(bf16[name] / f32[name] - 1) for name in ("loss", "grad_norm")}
    return {
        "passed": max(errors.values()) <= STEP_ERROR,
        "figure": f"loss {errors['loss']:.2%}, gradient norm {errors['grad_norm']:.2%} apart"
        f" (limit {STEP_ERROR:.0%}), {dtypes[0]} against {dtypes[1]}",
        dtypes[0]: bf16,
        "float32": f32,
    }


def _step_once(dtype: str) -> dict[str, float]:
    """Return loss and gradient norm of a step of the `xs` UNet; the same weights, batch and key."""
    diffusion = make_diffusion(tiny=True)
    case = Case(4, "none")
    train = make_train(case, dtype=dtype)
    unet = get_unet(diffusion, tiny=True)
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    # float32 without TF32; bfloat16 as it is trained
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        ahead = make_aot_step(diffusion, unet, train, mesh)
        compiled = ahead.lower().compile()
    job = TrainingJob(diffusion, unet, train, MeshSettings())
    whole = make_replicated_sharding(mesh)
    _, metrics = compiled(
        draw_state(ahead, job),
        jax.device_put(draw_arrays(ahead.constants), whole),
        jax.device_put(draw_batch(ahead, job), make_batch_sharding(mesh)),
        jax.device_put(jax.random.key(0), whole),
    )
    return {name: float(metrics[name]) for name in ("loss", "grad_norm")}


def _max_error(found: Any, reference: Any) -> float:
    """Return the largest relative L2 error of corresponding arrays; not finite is infinite."""
    errors = []
    for a, b in zip(found, reference, strict=True):
        difference = jnp.linalg.norm((a.astype(jnp.float32) - b).ravel())
        errors.append(float(difference / jnp.linalg.norm(b.ravel())))
    return max(errors) if np.all(np.isfinite(errors)) else float("inf")
