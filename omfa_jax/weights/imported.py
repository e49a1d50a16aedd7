"""Imported folders: the same descriptions, with the parameters as one Orbax tree.

Training starts from such a folder without PyTorch; `manifest.json` lists every array's shape,
dtype and SHA-256, so a damaged copy is found before the first step.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_dir
from omfa_jax.weights.description import read_description, write_description
from omfa_jax.weights.files import read_json, write_json
from omfa_jax.weights.folder import LoadedModel, load_diffusers, widened
from omfa_jax.weights.text import encode_prompts

MANIFEST = "manifest.json"


def import_diffusers(
    source: Path,
    out: Path,
    *,
    unet_in_channels: int | None = None,
    prompts: Sequence[str] | None = None,
) -> LoadedModel:
    """Turn a diffusers folder into an imported folder `out` and return the model.

    `prompts` are embedded by the source's own text encoders (needs torch and transformers);
    without them the source's prompt table is kept, if it has one.
    """
    model = load_diffusers(source, unet_in_channels=unet_in_channels)
    if prompts:
        model = dataclasses.replace(model, prompts=encode_prompts(source, prompts))
    save_imported(out, model)
    return model


def is_imported(folder: Path) -> bool:
    """Return True if `folder` was written by `save_imported`."""
    return (Path(folder) / MANIFEST).is_file()


def save_imported(folder: Path, model: LoadedModel) -> None:
    """Write the model as an imported folder; it appears whole."""
    params = {"unet": model.unet_params, "vae": model.vae_params}
    tensors = {"/".join(path): _entry(array) for path, array in trees.walk(params)}
    with atomic_dir(folder, replaces=MANIFEST) as temporary:
        write_description(temporary, model)
        write_json(temporary / MANIFEST, {"tensors": tensors, "notes": list(model.notes)})
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save((temporary / "params").absolute(), params)


def load_imported(
    folder: Path, *, unet_in_channels: int | None = None, verify: bool = True
) -> LoadedModel:
    """Return the model in an imported folder, its parameters as numpy arrays.

    `verify` compares every array's hash with the manifest's (some seconds for SDXL); shapes and
    dtypes are always compared. A difference, or a damaged Orbax tree, is an OmfaError.
    """
    folder = Path(folder)
    description = read_description(folder)
    manifest = read_json(folder / MANIFEST)
    params = _restore((folder / "params").absolute())
    found = {"/".join(path): array for path, array in trees.walk(params)}
    wrong = sorted(manifest["tensors"].keys() ^ found.keys())
    for name in manifest["tensors"].keys() & found.keys():
        expected, came = manifest["tensors"][name], _entry(found[name], verify)
        if any(expected[field] != value for field, value in came.items()):
            wrong.append(name)
    if wrong:
        raise OmfaError(
            f"{folder}: {len(wrong)} arrays differ from {MANIFEST} ({', '.join(wrong[:4])}); "
            "import the weights again"
        )
    return widened(description, params["unet"], params["vae"], unet_in_channels)


def load_weights(folder: Path, *, unet_in_channels: int | None = None) -> LoadedModel:
    """Return the model in `folder`, be it imported or in diffusers' form."""
    load = load_imported if is_imported(folder) else load_diffusers
    return load(folder, unet_in_channels=unet_in_channels)


def fields_of(model: LoadedModel) -> dict[str, Any]:
    """Return the model's parts under the names that `folder.save_diffusers` takes."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    del fields["notes"]
    return fields


def _entry(array: np.ndarray, with_hash: bool = True) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    entry: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if with_hash:
        entry["sha256"] = hashlib.sha256(array.data).hexdigest()
    return entry


def _restore(path: Path) -> dict[str, Any]:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            as_numpy = _mapped(tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
            return checkpointer.restore(path, restore_args=as_numpy)
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise OmfaError(f"{path} is not a whole Orbax tree ({error}); import it again") from None


def _mapped(tree: Mapping[str, Any], function: Any) -> dict[str, Any]:
    return trees.build({path: function(leaf) for path, leaf in trees.walk(tree)})
