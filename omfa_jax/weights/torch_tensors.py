"""PyTorch tensors on disk: safetensors or pickled, in a single file or in shards with an index."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from omfa_jax.core.errors import OmfaError, raise_all, require_modules
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.npz_reader import require_uncompressed
from omfa_jax.core.paths import AnyPath, local_copy
from omfa_jax.core.retry import call_with_retries
from omfa_jax.weights.tensor_files import (
    STEM,
    format_names,
    make_unreadable_error,
    read_json,
    reraise_storage_error,
)

# in order of preference: half precision only where there is nothing else
VARIANTS = ("", ".fp16", ".bf16")
FORMS = ("safetensors", "bin")
FLOATS = ("F64", "F32", "F16", "BF16")
# as safetensors and as torch name them
FLOAT8 = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclass(frozen=True)
class LazyTensors:
    """Tensors by key; `read` loads one of them from disk as a float32 array, at every call.

    `where` names the file or folder in messages. `faulty` gives the reason why some keys cannot be
    weights (integers, in two files); only keys that a network needs are reported. `float8` gives
    the dtype of those in 8-bit floating point. `metadata` is that of the safetensors headers.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    faulty: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    float8: dict[str, str] = field(default_factory=dict)

    def drop_keys(self, keys: set[str]) -> "LazyTensors":
        """Return the tensors except those in `keys`."""
        kept = {key: shape for key, shape in self.shapes.items() if key not in keys}
        return dataclasses.replace(self, shapes=kept)

    def rename_keys(self, rename: Callable[[str], str]) -> "LazyTensors":
        """Return the tensors under other keys; two that get the same key are faulty."""
        now: dict[str, str] = {}
        faulty = {rename(key): reason for key, reason in self.faulty.items()}
        for key in self.shapes:
            name = rename(key)
            if name in now:
                faulty[name] = f"is present twice, as {now[name]} and as {key}"
            now[name] = key
        return dataclasses.replace(
            self,
            shapes={name: self.shapes[key] for name, key in now.items()},
            read=lambda name: self.read(now[name]),
            faulty=faulty,
            float8={name: self.float8[key] for name, key in now.items() if key in self.float8},
        )


@dataclass(frozen=True)
class ModelFiles:
    """The files of one network in a component folder; `variant` is diffusers' ("fp16"), or ""."""

    paths: list[AnyPath]
    form: str
    variant: str


def open_model(folder: AnyPath) -> LazyTensors:
    """Open the tensors of the network in a diffusers component folder."""
    files = find_model_files(folder)
    opener = open_safetensors if files.form == "safetensors" else open_pickled
    return opener(files.paths, str(folder))


def find_model_files(folder: AnyPath) -> ModelFiles:
    """Return the files to read; OmfaError if there are none or a shard is missing."""
    for variant in VARIANTS:
        for form in FORMS:
            index = folder / f"{STEM}.{form}.index{variant}.json"
            if index.is_file():
                return ModelFiles(list_shards(index), form, variant.removeprefix("."))
            single = folder / f"{STEM}{variant}.{form}"
            if single.is_file():
                return ModelFiles([single], form, variant.removeprefix("."))
    found = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    raise OmfaError(
        f"no {STEM}.safetensors or .bin, single or sharded, in {folder} (it has: "
        f"{format_names(found) or 'nothing'}); give a diffusers folder"
    )


def open_safetensors(paths: Sequence[AnyPath], where: str) -> LazyTensors:
    """Open safetensors files; all truncated files are reported in one OmfaError.

    Remote files are downloaded to TMPDIR; the room there is free again when nothing holds the
    result.
    """
    found = _TensorIndex()
    holders: dict[str, Any] = {}
    errors = []
    for path in paths:
        try:
            # only the header is read here, so opening SDXL takes milliseconds
            file = call_with_retries(str(path), lambda path=path: _open_whole(path))
            found.metadata |= file.metadata() or {}
            for key in file.keys():  # noqa: SIM118
                view = file.get_slice(key)
                kind = view.get_dtype()
                is_float = kind in (*FLOATS, *FLOAT8)
                found.add(key, tuple(view.get_shape()), path, kind, is_float=is_float)
                holders[key] = file
        except (SafetensorError, OSError) as error:
            reraise_storage_error(path, error)
            errors.append(make_unreadable_error(path, error))
    raise_all(errors)

    def read(key: str) -> np.ndarray:
        if key in found.float8:
            return _read_float8(found.paths[key], key, found.float8[key])
        return holders[key].get_tensor(key).astype(np.float32)

    return found.tensors(where, read)


def _open_whole(path: AnyPath) -> Any:
    # a memory map outlives the name of its file, here that of the temporary copy
    with local_copy(path) as local:
        return safe_open(local, framework="np")


def _read_float8(path: AnyPath, key: str, kind: str) -> np.ndarray:
    # numpy has no such dtype, and older safetensors cannot return these tensors
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = parse_json(file.read(length))[key]
        first, end = entry["data_offsets"]
        file.seek(8 + length + first)
        data = np.frombuffer(file.read(end - first), FLOAT8[kind])
    return data.astype(np.float32).reshape(entry["shape"])


def open_pickled(paths: Sequence[AnyPath], where: str) -> LazyTensors:
    """Open files of torch.save; their pickles may contain only tensors."""
    require_modules("reading .bin files", "torch", "torch")
    import torch

    found = _TensorIndex()
    state: dict[str, Any] = {}
    errors = []
    for path in paths:
        try:
            with local_copy(path) as local:
                part = _load_pickle(local)
            nested = [
                key
                for key, value in part.items()
                if not (isinstance(key, str) and isinstance(value, torch.Tensor))
            ]
            if nested:
                raise ValueError(f"not tensors: {format_names(nested)}")
        # a broken file can raise any exception here
        except Exception as error:
            reraise_storage_error(path, error)
            reason = str(error).strip().partition("\n")[0]
            errors.append(
                OmfaError(
                    f"{path} is not a complete torch.save file of tensors only ({reason}); fetch it"
                    " again, or convert it to safetensors"
                )
            )
            continue
        # weights_only limits what a pickle may build; torch itself has no lazy reader
        for key, tensor in part.items():
            kind = str(tensor.dtype).removeprefix("torch.")
            is_float = tensor.is_floating_point() and (kind in FLOAT8 or "float8" not in kind)
            found.add(key, tuple(tensor.shape), path, kind, is_float=is_float)
        state |= part
    raise_all(errors)
    return found.tensors(where, lambda key: state[key].float().numpy())


def _load_pickle(path: Path) -> dict[str, Any]:
    import torch

    require_uncompressed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        # files written before PyTorch 1.6 are not zip archives and cannot be memory-mapped
        return torch.load(path, map_location="cpu", weights_only=True)


class _TensorIndex:
    """Collects the contents of a model's files, and faults of single tensors."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.paths: dict[str, AnyPath] = {}
        self._faulty: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self.float8: dict[str, str] = {}

    def add(
        self, key: str, shape: tuple[int, ...], path: AnyPath, kind: str, *, is_float: bool
    ) -> None:
        if key in self.paths:
            self._faulty[key] = f"is in {self.paths[key].name} and in {path.name}"
        elif not is_float:
            self._faulty[key] = f"is {kind}, expected floating point"
        elif kind in FLOAT8:
            self.float8[key] = kind
        self._shapes[key], self.paths[key] = shape, path

    def tensors(self, where: str, read: Callable[[str], np.ndarray]) -> LazyTensors:
        return LazyTensors(where, self._shapes, read, self._faulty, self.metadata, self.float8)


def list_shards(index: AnyPath) -> list[AnyPath]:
    """Return the files that an index of shards lists; OmfaError if one is missing."""
    fields = read_json(index).get("weight_map")
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields.values()):
        raise OmfaError(f"{index} has no weight_map; fetch or export the folder again")
    names = sorted(set(fields.values()))
    if not names:
        raise OmfaError(f"{index} lists no shards; fetch or export the folder again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise OmfaError(
            f"{index} lists {len(names)} shards, of which {len(missing)} are missing "
            f"({format_names(missing)}); fetch or export the folder again"
        )
    return [index.parent / name for name in names]
