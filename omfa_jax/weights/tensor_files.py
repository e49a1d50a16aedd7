"""Reading and writing of safetensors and JSON files; errors are one line naming the file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from omfa_jax.core.atomic_files import get_umask
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath, is_remote, local_copy, to_path
from omfa_jax.core.retry import call_with_retries
from omfa_jax.weights.foreign_files import FETCH, recognise_file

STEM = "diffusion_pytorch_model"
# names listed in a message, and characters of each
MAX_LISTED, MAX_NAME_CHARS = 10, 150
DTYPES: dict[str, np.dtype] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


def read_json(path: AnyPath) -> dict[str, Any]:
    """Return the object in a JSON file; OmfaError if it is missing or broken."""
    try:
        file = require_any_file(path, "JSON file", "the weights folder")
        fields = parse_json(call_with_retries(str(path), file.read_text))
    except ValueError as error:
        raise OmfaError(f"{path} is not JSON ({error}); fetch or export the folder again") from None
    if not isinstance(fields, dict):
        raise OmfaError(
            f"{path}: expected a JSON object, got {type(fields).__name__}; fetch or export the"
            " folder again"
        )
    return fields


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write `fields` with sorted keys, so that equal settings give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def read_tensors(path: AnyPath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, metadata) of one safetensors file."""

    def read() -> tuple[dict[str, np.ndarray], dict[str, str]]:
        with local_copy(path) as local, safe_open(local, framework="np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}

    try:
        return call_with_retries(str(path), read)
    except (SafetensorError, OSError) as error:
        reraise_storage_error(path, error)
        raise make_unreadable_error(path, error) from None


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], dtype: str, metadata: Mapping[str, str]
) -> None:
    """Write one safetensors file with every tensor cast to `dtype` (fp32, fp16 or bf16).

    Raises OmfaError, naming the tensor, if a finite value overflows.
    """
    if dtype not in DTYPES:
        raise make_unknown_name_error("dtype", dtype, DTYPES)
    narrow = {key: cast_tensor(key, tensor, dtype) for key, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(narrow, path, dict(metadata))
        # some versions of safetensors create files that only their owner can read
        path.chmod(0o666 & ~get_umask())
    except (SafetensorError, OSError) as error:
        raise OmfaError(f"cannot write {path}: {error}") from error


def cast_tensor(key: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    """Return `tensor` cast to `dtype`; OmfaError if a finite value overflows."""
    # numpy's warning would name no tensor; the check below does
    with np.errstate(over="ignore"):
        narrow = tensor.astype(DTYPES[dtype], copy=False)
    if narrow is not tensor and not np.isfinite(narrow).all() and np.isfinite(tensor).all():
        raise OmfaError(
            f"{key} has values up to {np.abs(tensor).max():.3g}, too large for {dtype}; "
            "use --dtype bf16 or fp32"
        )
    return narrow


def reraise_storage_error(path: AnyPath, error: Exception) -> None:
    """Raise an error of the download of a remote file again: it says nothing about the file."""
    if is_remote(path) and isinstance(error, OSError):
        raise error


def make_unreadable_error(path: AnyPath, error: Exception) -> OmfaError:
    """Return the OmfaError for a safetensors file that cannot be read, with what it is instead."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason, advice = recognise_file(to_path(path)) or (make_printable(lines[0]), FETCH)
    return OmfaError(f"{path} is not a complete safetensors file ({reason}); {advice}")


def format_names(names: Iterable[Any]) -> str:
    """Return the first ten names, separated by commas, and how many more there are."""
    shown = [make_printable(str(name)) for name in names]
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more


def make_printable(name: str) -> str:
    """Return a name from a file as text for one line of a message, cut if it is very long."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= MAX_NAME_CHARS else f"{text[: MAX_NAME_CHARS - 3]}..."
