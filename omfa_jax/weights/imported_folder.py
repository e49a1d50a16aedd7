"""Imported folders: model folders whose parameters are stored as arrays of our own trees.

`params/unet.safetensors` and `params/vae.safetensors` have our names and axis order, including
stacked layers, so that training starts without PyTorch and without a conversion: the arrays are
memory maps of the files. They are written while the source is read, one tensor at a time.
`omfa_import.json`, written last, lists every array's shape, dtype and SHA-256, so that a damaged
copy is found before the first step.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core import trees
from omfa_jax.core.atomic_dirs import atomic_dir
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.paths import AnyPath, local_copy, to_path
from omfa_jax.weights import conv_in, safetensors_stream, scheduler_agreement, tensor_names
from omfa_jax.weights.diffusers_folder import LoadedModel, load_diffusers, map_conv_in
from omfa_jax.weights.mismatches import Mismatches, raise_mismatches
from omfa_jax.weights.model_description import (
    DESCRIPTION_FILES,
    read_description,
    write_description,
)
from omfa_jax.weights.prompt_table import PromptTable
from omfa_jax.weights.scheduler_statements import SCHEDULER_FILE, Statement, parse_scheduler_config
from omfa_jax.weights.tensor_files import (
    DTYPES,
    format_names,
    read_json,
    read_tensors,
    write_json,
)
from omfa_jax.weights.torch_sources import TorchSource
from omfa_jax.weights.torch_tensors import open_safetensors

MANIFEST_FILE = "omfa_import.json"
PROMPTS_FILE = "prompts.safetensors"
COMPONENTS = ("unet", "vae")
# every file that an imported folder may contain; a folder with others is not replaced
CONTENTS = (
    MANIFEST_FILE,
    *DESCRIPTION_FILES,
    *(f"params/{name}.safetensors" for name in COMPONENTS),
)


@dataclass(frozen=True)
class ImportSummary:
    """The result of an import: number of PyTorch tensors by component, and notes for the user."""

    tensors: dict[str, int]
    notes: tuple[str, ...]


def import_source(
    source: TorchSource,
    out: AnyPath,
    *,
    inputs: conv_in.Groups | None = None,
    dtype: str = "fp32",
    prompts: PromptTable | None = None,
) -> ImportSummary:
    """Write the source as an imported folder `out`, atomically.

    `inputs` maps the UNet's first convolution to these channel groups; `dtype` (fp32, fp16, bf16)
    is the dtype on disk; `prompts` replaces the source's own table. All missing, unexpected,
    misshapen and NaN tensors are reported in one OmfaError.
    """
    if dtype not in DTYPES:
        raise make_unknown_name_error("dtype", dtype, DTYPES)
    unet_config, notes = source.unet_config, source.notes
    where = source.components["unet"].tensors.where
    known = conv_in.require_known(source.inputs, unet_config.in_channels, where)
    change = conv_in.ChannelMap(known, known.groups if inputs is None else inputs)
    omfa = source.omfa
    notes = (
        *notes,
        change.note,
        *scheduler_agreement.describe_source(source.statements, source.scheduler),
    )
    if change.is_changed:
        unet_config = dataclasses.replace(
            unet_config, in_channels=conv_in.count_channels(change.wanted)
        )
        # omfa.json describes the weights next to it, so it follows the change
        omfa = omfa and {**omfa, "unet_inputs": [name for name, _ in change.wanted]}
    description = dataclasses.replace(
        source, unet_config=unet_config, omfa=omfa, prompts=prompts or source.prompts
    )
    found = tensor_names.require_match(source.components.values())
    layouts = {name: _get_shapes(part, change) for name, part in source.components.items()}
    sizes = [
        safetensors_stream.compute_size_bytes(s, dtype)
        for part in layouts.values()
        for s in part.values()
    ]
    entries: dict[str, Any] = {}
    with atomic_dir(out, CONTENTS) as temporary:
        # before minutes of reading
        safetensors_stream.require_space(temporary, sum(sizes), out)
        for (name, component), faults in zip(source.components.items(), found, strict=True):
            digests: dict[str, Any] = {}
            # lazy generators: one tensor at a time is read, cast, hashed and written
            chunks = safetensors_stream.cast_chunks(_iter_arrays(component, faults, change), dtype)
            shapes = layouts[name]
            path = _params_file(temporary, name)
            safetensors_stream.write_tensor_stream(
                path, shapes, dtype, safetensors_stream.hash_chunks(chunks, digests), {}
            )
            for key, shape in shapes.items():
                digest = digests[key].hexdigest()
                entries[f"{name}/{key}"] = _make_entry(shape, DTYPES[dtype], digest)
        # NaN is known only after reading; atomic_dir discards the folder then
        raise_mismatches(found)
        write_description(temporary, description)
        if description.prompts is not None:
            entries |= _make_prompt_entries(temporary)
        fields = {
            "tensors": entries,
            "inputs": change.wanted,
            "inputs_known_by": known.rule,
            "scheduler": [dataclasses.asdict(statement) for statement in source.statements],
            "notes": notes,
        }
        write_json(temporary / MANIFEST_FILE, fields)
    counts = {name: len(component.rows) for name, component in source.components.items()}
    return ImportSummary(counts, notes)


def is_imported(folder: AnyPath) -> bool:
    """Return True if `folder` was written by `import_source`."""
    return (to_path(folder) / MANIFEST_FILE).is_file()


def require_finished(folder: AnyPath) -> None:
    """Raise an OmfaError for an import that was interrupted; in object storage it leaves files."""
    folder = to_path(folder)
    if not is_imported(folder) and _params_file(folder, "unet").is_file():
        raise OmfaError(
            f"{folder} was not written to its end (no {MANIFEST_FILE}): run the same"
            " `convert_weights.py import` again"
        )


def load_imported(
    folder: AnyPath, *, inputs: conv_in.Groups | None = None, verify: bool = True
) -> LoadedModel:
    """Return the model in an imported folder, with parameters as numpy arrays.

    float32 arrays are read-only memory maps of the files. `verify` compares every array's hash with
    the manifest (a few seconds for SDXL). Raises OmfaError for a difference or a truncated file.
    """
    description = read_description(to_path(folder))
    if verify and description.prompts is not None:
        listed = read_json(to_path(folder) / MANIFEST_FILE)["tensors"]
        wrong = [
            key for key, entry in _make_prompt_entries(folder).items() if listed.get(key) != entry
        ]
        if wrong:
            raise _make_difference_error(folder, wrong)
    params = load_params(folder, COMPONENTS, verify=verify)
    groups = tuple((name, n) for name, n in read_json(to_path(folder) / MANIFEST_FILE)["inputs"])
    known = conv_in.SourceInputs(groups, MANIFEST_FILE)
    return map_conv_in(description, params["unet"], params["vae"], known, inputs)


def load_params(
    folder: AnyPath, components: Sequence[str], *, verify: bool = True
) -> dict[str, Any]:
    """Return {component: parameter tree} of an imported folder."""
    folder = to_path(folder)
    manifest = read_json(folder / MANIFEST_FILE)["tensors"]
    built, wrong = {}, []
    for component in components:
        path = _params_file(folder, component)
        with local_copy(path) as local:
            # raises for a missing or truncated file, which a memory map would not notice
            open_safetensors([local], str(folder))
            arrays = safetensors_stream.mmap_tensors(local)
        listed = {
            key.removeprefix(f"{component}/"): entry
            for key, entry in manifest.items()
            if key.startswith(f"{component}/")
        }
        for name in sorted(listed.keys() | arrays.keys()):
            # names in both directions: an array too many is damage too
            if (
                name not in listed
                or name not in arrays
                or (listed[name] != _describe_array(arrays[name], listed[name], verify))
            ):
                wrong.append(f"{component}/{name}")
        # without a copy for float32: the leaves stay memory maps, read when a device needs them
        leaves = {tuple(k.split("/")): a.astype(np.float32, copy=False) for k, a in arrays.items()}
        built[component] = trees.unflatten(leaves)
    if wrong:
        raise _make_difference_error(folder, wrong)
    return built


def load_weights(folder: AnyPath, *, inputs: conv_in.Groups | None = None) -> LoadedModel:
    """Return the model in an imported or a diffusers folder."""
    require_finished(folder)
    load = load_imported if is_imported(folder) else load_diffusers
    return load(folder, inputs=inputs)


def read_statements(folder: AnyPath) -> tuple[Statement, ...]:
    """Return the statements of a model folder on its schedule; for an import, its source's."""
    folder = to_path(folder)
    if is_imported(folder):
        stated = read_json(folder / MANIFEST_FILE).get("scheduler")
        # older imports have only the source's scheduler_config.json
        if stated is not None:
            return tuple(_parse_statement(row) for row in stated)
    path = folder / "scheduler" / SCHEDULER_FILE
    return parse_scheduler_config(read_json(path)) if path.is_file() else ()


def _parse_statement(row: dict[str, Any]) -> Statement:
    # folders written before the renaming of 2026-11 have "said"
    quote = row["quote"] if "quote" in row else row["said"]
    return Statement(row["field"], row["value"], quote)


def get_export_fields(model: LoadedModel) -> dict[str, Any]:
    """Return the model's parts as keyword arguments of `save_diffusers`."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    del fields["notes"], fields["inputs"]
    return fields


def _make_difference_error(folder: AnyPath, wrong: Sequence[str]) -> OmfaError:
    return OmfaError(
        f"{folder}: {len(wrong)} arrays differ from {MANIFEST_FILE} ({format_names(wrong)});"
        " the copy is damaged: import the weights again"
    )


def _make_prompt_entries(folder: AnyPath) -> dict[str, Any]:
    arrays, _ = read_tensors(to_path(folder) / PROMPTS_FILE)
    return {
        f"prompts/{name}": _make_entry(array.shape, array.dtype, _sha256(array))
        for name, array in arrays.items()
    }


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(safetensors_stream.as_bytes(np.ascontiguousarray(array))).hexdigest()


def _params_file(folder: Any, component: str) -> Any:
    return folder / "params" / f"{component}.safetensors"


def _get_shapes(
    component: tensor_names.Component, change: conv_in.ChannelMap
) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path, leaf in trees.flatten(component.tree):
        shape = tuple(leaf.shape)
        if path == conv_in.KERNEL_PATH:
            shape = (*shape[:2], conv_in.count_channels(change.wanted), shape[3])
        shapes["/".join(path)] = shape
    return shapes


def _iter_arrays(
    component: tensor_names.Component, faults: Mismatches, change: conv_in.ChannelMap
) -> Iterator[tuple[str, np.ndarray]]:
    for row, array in tensor_names.iter_tensors(component, faults):
        kernel = change.apply(array) if row.path == conv_in.KERNEL_PATH else array
        yield "/".join(row.path), kernel


def _make_entry(shape: Sequence[int], dtype: np.dtype, sha256: str) -> dict[str, Any]:
    return {"shape": list(shape), "dtype": dtype.name, "sha256": sha256}


def _describe_array(array: np.ndarray, listed: dict[str, Any], verify: bool) -> dict[str, Any]:
    digest = listed["sha256"]
    if verify:
        digest = _sha256(array)
    return _make_entry(array.shape, array.dtype, digest)
