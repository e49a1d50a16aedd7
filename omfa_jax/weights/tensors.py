"""PyTorch's tensors on disk: safetensors or pickled, in one file or in shards with an index."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from omfa_jax.core.archives import require_stored
from omfa_jax.core.errors import OmfaError, raise_all, require_modules
from omfa_jax.core.retry import retried
from omfa_jax.weights.files import STEM, read_json, unreadable

# full precision first; half precisions are for folders that have nothing else
VARIANTS = ("", ".fp16", ".bf16")
FORMS = ("safetensors", "bin")
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Tensors:
    """Tensors by key; `read` returns one of them as a float32 array, from disk at each call.

    `where` names the file or folder in messages. `faulty` says of some keys why they cannot be
    weights (integers, in two files); it matters only for the keys that a network wants. `metadata`
    is what safetensors files say in their headers.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    faulty: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def without(self, keys: set[str]) -> "Tensors":
        """Return the tensors but those of `keys`."""
        kept = {key: shape for key, shape in self.shapes.items() if key not in keys}
        return dataclasses.replace(self, shapes=kept)


@dataclass(frozen=True)
class ModelFiles:
    """The files of one network in a component folder; `variant` is diffusers' word, "" if none."""

    paths: list[Path]
    form: str
    variant: str


def open_model(folder: Path) -> Tensors:
    """Return the tensors of the network in a diffusers component folder."""
    files = model_files(folder)
    opener = open_safetensors if files.form == "safetensors" else open_pickled
    return opener(files.paths, str(folder))


def model_files(folder: Path) -> ModelFiles:
    """Return the files to read; a folder without any, or without some shard, is an OmfaError."""
    for variant in VARIANTS:
        for form in FORMS:
            index = folder / f"{STEM}.{form}.index{variant}.json"
            if index.is_file():
                return ModelFiles(_shards(index), form, variant.removeprefix("."))
            single = folder / f"{STEM}{variant}.{form}"
            if single.is_file():
                return ModelFiles([single], form, variant.removeprefix("."))
    found = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    raise OmfaError(
        f"no {STEM}.safetensors or .bin, whole or in shards, in {folder} (it has: "
        f"{', '.join(found) or 'nothing'}); give a folder in diffusers' form"
    )


def open_safetensors(paths: Sequence[Path], where: str) -> Tensors:
    """Return the tensors of safetensors files; all files that are cut short are one OmfaError."""
    found = _Found()
    holders: dict[str, Any] = {}
    errors = []
    for path in paths:
        try:
            file = retried(str(path), lambda path=path: safe_open(path, framework="np"))
            found.metadata |= file.metadata() or {}
            for key in file.keys():  # noqa: SIM118
                view = file.get_slice(key)
                kind = view.get_dtype()
                found.add(key, tuple(view.get_shape()), path, kind, is_float=kind in FLOATS)
                holders[key] = file
        except (SafetensorError, OSError) as error:
            errors.append(unreadable(path, error))
    raise_all(errors)
    return found.tensors(where, lambda key: holders[key].get_tensor(key).astype(np.float32))


def open_pickled(paths: Sequence[Path], where: str) -> Tensors:
    """Return the tensors of PyTorch's own files; the pickles may hold nothing but tensors."""
    require_modules("reading .bin files", "torch", "torch")
    import torch

    found = _Found()
    state: dict[str, Any] = {}
    errors = []
    for path in paths:
        try:
            part = _load_pickle(path)
            nested = [key for key, value in part.items() if not isinstance(value, torch.Tensor)]
            if nested:
                raise ValueError(f"{', '.join(map(str, nested[:3]))} is no tensor")
        # its readers raise whatever the broken byte leads to
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            errors.append(
                OmfaError(
                    f"{path} is not a whole file of torch.save's with tensors alone ({reason});"
                    " fetch it again, or convert it to safetensors"
                )
            )
            continue
        for key, tensor in part.items():
            kind = str(tensor.dtype).removeprefix("torch.")
            found.add(key, tuple(tensor.shape), path, kind, is_float=tensor.is_floating_point())
        state |= part
    raise_all(errors)
    return found.tensors(where, lambda key: state[key].float().numpy())


def _load_pickle(path: Path) -> dict[str, Any]:
    import torch

    require_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        # files from before PyTorch 1.6 are no archives and cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


class _Found:
    """Collects what a model's files hold, and what is wrong with single tensors."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._paths: dict[str, Path] = {}
        self._faulty: dict[str, str] = {}
        self.metadata: dict[str, str] = {}

    def add(
        self, key: str, shape: tuple[int, ...], path: Path, kind: str, *, is_float: bool
    ) -> None:
        if key in self._paths:
            self._faulty[key] = f"is in {self._paths[key].name} and in {path.name}"
        elif not is_float:
            self._faulty[key] = f"is {kind}, expected floating point: give unquantised weights"
        self._shapes[key], self._paths[key] = shape, path

    def tensors(self, where: str, read: Callable[[str], np.ndarray]) -> Tensors:
        return Tensors(where, self._shapes, read, self._faulty, self.metadata)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, AttributeError, TypeError):
        raise OmfaError(f"{index} has no weight_map; fetch or export the folder again") from None
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise OmfaError(
            f"{index} names {len(names)} shards, of which {len(missing)} are not there "
            f"({', '.join(missing)}); fetch or export the folder again"
        )
    return [index.parent / name for name in names]
