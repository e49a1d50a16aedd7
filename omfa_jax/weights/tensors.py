"""PyTorch's tensors on disk: safetensors or pickled, in one file or in shards with an index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.weights.files import STEM, read_json, unreadable

# full precision first; half precisions are for folders that have nothing else
VARIANTS = ("", ".fp16", ".bf16")
FORMS = ("safetensors", "bin")
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Tensors:
    """Tensors by key; `read` returns one of them as a float32 array, from disk at each call.

    `where` names the file or folder in messages.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


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
    """Return the tensors of safetensors files; a file that is cut short is an OmfaError."""
    holders: dict[str, Any] = {}
    shapes = {}
    for path in paths:
        try:
            file = safe_open(path, framework="np")
            for key in file.keys():  # noqa: SIM118
                view = file.get_slice(key)
                if view.get_dtype() not in FLOATS:
                    raise OmfaError(
                        f"{path}: {key} is {view.get_dtype()}, expected one of {', '.join(FLOATS)};"
                        " give weights that are not quantised"
                    )
                shapes[key], holders[key] = tuple(view.get_shape()), file
        except (SafetensorError, OSError) as error:
            raise unreadable(path, error) from None
    return Tensors(where, shapes, lambda key: holders[key].get_tensor(key).astype(np.float32))


def open_pickled(paths: Sequence[Path], where: str) -> Tensors:
    """Return the tensors of PyTorch's own files; the pickles may hold nothing but tensors."""
    require_modules("reading .bin files", "torch", "torch")
    import torch

    state: dict[str, Any] = {}
    for path in paths:
        try:
            state |= torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # its readers raise whatever the broken byte leads to
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise OmfaError(
                f"{path} is not a whole file of torch.save's with tensors alone ({reason}); fetch"
                " it again, or convert it to safetensors"
            ) from None
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return Tensors(where, shapes, lambda key: state[key].float().numpy())


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
