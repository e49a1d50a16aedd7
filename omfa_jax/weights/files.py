"""safetensors and JSON files, with faults told as one line that names the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import current_umask, require_file

STEM = "diffusion_pytorch_model"
DTYPES: dict[str, np.dtype] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an absent or broken file is an OmfaError."""
    try:
        fields = json.loads(require_file(path, "JSON file", "the weights folder").read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OmfaError(f"{path} is not JSON ({error}); fetch or export the folder again") from None
    if not isinstance(fields, dict):
        raise OmfaError(f"{path}: expected a JSON object, got {type(fields).__name__}")
    return fields


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write `fields` with sorted keys, so that equal settings are equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return all tensors of one safetensors file and its metadata."""
    try:
        with safe_open(path, framework="np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], dtype: str, metadata: Mapping[str, str]
) -> None:
    """Write one safetensors file with every tensor cast to `dtype` (fp32, fp16 or bf16).

    A finite value that the cast makes infinite is an OmfaError that names its tensor.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    cast = {key: _cast(key, tensor, dtype) for key, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(cast, path, dict(metadata))
        path.chmod(0o666 & ~current_umask())
    except (SafetensorError, OSError) as error:
        raise OmfaError(f"cannot write {path}: {error}") from error


def open_model(folder: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Return the keys of the model in a diffusers component folder and a reader of one tensor.

    The folder has one safetensors file, or shards with an index; of the variants, full precision
    comes before fp16. Tensors are read one at a time, as float32.
    """
    holders = {}
    for path in _model_files(folder):
        try:
            file = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from None
        holders |= dict.fromkeys(file.keys(), file)

    def read(key: str) -> np.ndarray:
        return holders[key].get_tensor(key).astype(np.float32)

    return list(holders), read


def _model_files(folder: Path) -> list[Path]:
    for variant in ("", ".fp16", ".bf16"):
        index = folder / f"{STEM}.safetensors.index{variant}.json"
        if index.is_file():
            return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        single = folder / f"{STEM}{variant}.safetensors"
        if single.is_file():
            return [single]
    found = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    raise OmfaError(
        f"no {STEM}.safetensors in {folder} (it has: {', '.join(found) or 'nothing'}); "
        "give a diffusers folder saved with safe_serialization=True"
    )


def _cast(key: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = tensor.astype(DTYPES[dtype])
    if not np.isfinite(cast).all() and np.isfinite(tensor).all():
        raise OmfaError(
            f"{key} has values up to {np.abs(tensor).max():.3g}, too large for {dtype}; "
            "give --dtype bf16 or fp32"
        )
    return cast


def _unreadable(path: Path, error: Exception) -> OmfaError:
    return OmfaError(f"{path} is not a whole safetensors file ({error}); fetch or export it again")
