"""One network of a source, and the parameter trees that sources fill."""

from dataclasses import dataclass
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.scheduler_statements import Statement
from omfa_jax.weights.tensor_names import Component, list_reshaped
from omfa_jax.weights.torch_tensors import LazyTensors


@dataclass(frozen=True)
class NetworkSource:
    """One network of a source: its config, its tensors, and what was assumed or left out.

    `statements` are set for the UNet of a single file.
    """

    config: Any
    component: Component
    notes: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()


def describe_tensors(component: Component, name: str, *, allow_fp8: bool) -> list[str]:
    """Return notes on tensors that are read in another form; OmfaError for 8-bit ones.

    `name` is the network's; `allow_fp8` accepts tensors in 8-bit floating point.
    """
    tensors, notes = component.tensors, []
    needed = {component.key_fn(row.key) for row in component.rows} & tensors.shapes.keys()
    if note := describe_float8(tensors, needed, allow_fp8=allow_fp8):
        notes.append(f"{name}: {note}")
    if reshaped := list_reshaped(component):
        shape = tensors.shapes[reshaped[0]]
        notes.append(
            f"{name}: read {len(reshaped)} vectors with axes of length 1, such as {reshaped[0]}"
            f" {shape}, as {shape[:1]}"
        )
    return notes


def describe_float8(tensors: LazyTensors, needed: set[str], *, allow_fp8: bool) -> str:
    """Return a note if `needed` tensors are 8-bit floats, else ""; OmfaError if not allowed."""
    narrow = sorted(needed & tensors.float8.keys())
    if not narrow:
        return ""
    kinds = ", ".join(sorted({tensors.float8[key] for key in narrow}))
    if not allow_fp8:
        raise OmfaError(
            f"{tensors.where}: {len(narrow)} tensors are 8-bit floats ({kinds}), which keep two or"
            " three bits of each weight's mantissa: give the weights in fp16, bf16 or fp32, or"
            " accept them as they are with `convert_weights.py import --allow-fp8`"
        )
    return f"upcast {len(narrow)} tensors from {kinds} to float32"
