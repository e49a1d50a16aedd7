"""FLOPs of a compiled program's matrix products, convolutions and known kernels, by shapes."""

import math
import re

from omfa_jax.planning.hlo_text import Array, Instruction

_WINDOW = re.compile(r"(\w+)=([\w\-]+)")
_PAIR = re.compile(r'"(\w+)":\[([^\]]*)\]')
GEMMS = ("__cublas$gemm", "__cublas$lt$matmul", "__onednn$matmul", "__triton_nested_gemm_fusion")


def get_target(one: Instruction) -> str:
    """Return the kernel that a custom call names; "" for anything else."""
    found = re.search(r'custom_call_target="([^"]*)"', one.attributes)
    return found[1] if found and one.opcode == "custom-call" else ""


def count_product_flops(one: Instruction, inputs: list[list[Array]]) -> float | None:
    """Return the FLOPs of a product, 0 for other instructions, None for a kernel it cannot read.

    `inputs` are the operands' arrays. Two FLOPs per multiply-add, none for taps on padding and on
    the holes of a dilated input, which is XLA's own rule. Elementwise operations are not counted.
    """
    if one.opcode == "dot":
        return _count_dot(one, inputs[0][0])
    if one.opcode == "convolution":
        return _count_convolution(one, inputs[0][0], inputs[1][0], one.arrays[0])
    target = get_target(one)
    if target.startswith(GEMMS):
        return _count_gemm(one, inputs[0][0])
    if target.startswith("__cudnn$conv"):
        a, b, out = inputs[0][0], inputs[1][0], one.arrays[0]
        if "BackwardInput" in target:
            return _count_convolution(one, out, b, a)
        if "BackwardFilter" in target:
            return _count_convolution(one, a, out, b)
        return _count_convolution(one, a, b, out)
    if target.startswith("__cudnn$fmha"):
        return _count_fmha(target, inputs)
    if target == "tpu_custom_call":
        return _count_splash(one, inputs)
    if "matmul" in target.lower() or "gemm" in target.lower():
        return None
    return 0.0


def _count_dot(one: Instruction, left: Array) -> float:
    dims = [int(n) for n in re.findall(r"\d+", one.get("lhs_contracting_dims"))]
    return 2.0 * one.arrays[0].elements * math.prod(left.dims[n] for n in dims)


def _count_gemm(one: Instruction, left: Array) -> float | None:
    numbers = dict(_PAIR.findall(one.attributes))
    if "lhs_contracting_dimensions" not in numbers:
        return None
    dims = [int(n) for n in re.findall(r"\d+", numbers["lhs_contracting_dimensions"])]
    return 2.0 * one.arrays[0].elements * math.prod(left.dims[n] for n in dims)


def _count_convolution(one: Instruction, image: Array, kernel: Array, out: Array) -> float | None:
    labels = re.fullmatch(r"(\w+)_(\w+)->(\w+)", one.get("dim_labels"))
    if labels is None:
        return None
    window = dict(_WINDOW.findall(one.get("window")))
    spatial = sorted(set(labels[1]) - {"b", "f"})
    pairs = 1
    for axis, label in enumerate(spatial):
        pairs *= _count_pairs(
            image.dims[labels[1].index(label)],
            out.dims[labels[3].index(label)],
            kernel.dims[labels[2].index(label)],
            {name: _pick(window.get(name, ""), axis) for name in (*_DEFAULTS, "pad")},
        )
    rows = out.dims[labels[3].index("b")] * out.dims[labels[3].index("f")]
    return 2.0 * rows * kernel.dims[labels[2].index("i")] * pairs


_DEFAULTS = ("stride", "lhs_dilate", "rhs_dilate")


def _pick(values: str, axis: int) -> str:
    return values.split("x")[axis] if values else ""


def _count_pairs(image: int, out: int, kernel: int, window: dict[str, str]) -> int:
    """Return how often a tap of the kernel meets a pixel, neither padding nor a hole."""
    stride, holes, reach = (int(window[name] or 1) for name in _DEFAULTS)
    before = int(window["pad"].split("_")[0]) if window["pad"] else 0
    last = (image - 1) * holes
    count = 0
    for tap in range(kernel):
        offset = tap * reach - before
        # o * stride + offset must lie within 0..last and be a multiple of `holes`
        low, high = max(0, -(offset // stride)), min(out - 1, (last - offset) // stride)
        if holes == 1:
            count += max(0, high - low + 1)
        else:
            count += sum((o * stride + offset) % holes == 0 for o in range(low, high + 1))
    return count


def _count_fmha(target: str, inputs: list[list[Array]]) -> float | None:
    """Return the FLOPs of cuDNN's attention: two products forward, five backward."""
    heads = [part[0] for part in inputs if part and len(part[0].dims) == 4]
    if len(heads) < 3:
        return None
    # queries and keys are (batch, tokens, heads, channels), in either order of the middle two
    query, key = heads[0].dims, heads[1].dims
    same = [n for n in (1, 2) if query[n] == key[n]]
    shared = same[0] if len(same) == 1 else 2
    scores = query[0] * query[1] * query[2] * key[3 - shared]
    return 2.0 * scores * query[3] * (5 if "Backward" in target else 2)


def _count_splash(one: Instruction, inputs: list[list[Array]]) -> float | None:
    """Return the FLOPs of JAX's splash kernels for TPUs; None for another kernel."""
    name = one.name + one.op_name
    # scores and their gradient are computed again by each backward kernel
    products = {"splash_mha_dkv": 4, "splash_mha_dq": 3, "splash_mha_fwd": 2}
    found = [count for part, count in products.items() if part in name]
    heads = [p[0] for p in inputs if p and p[0].dtype in ("bf16", "f32") and len(p[0].dims) >= 3]
    if not found or len(heads) < 2:
        return None
    fused = 5 if found[0] == 4 and len(one.arrays) > 2 and "dq" in name else found[0]
    query, key = heads[0].dims, heads[1].dims
    return 2.0 * math.prod(query) * key[-2] * fused
