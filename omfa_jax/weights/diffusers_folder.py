"""Model folders in diffusers' format, written and read without PyTorch."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax import __version__
from omfa_jax.core import trees
from omfa_jax.core.atomic_dirs import atomic_dir
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.paths import AnyPath
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights import safetensors_stream, tensor_names
from omfa_jax.weights.conv_in import KERNEL_PATH, ChannelMap, Groups, SourceInputs, require_known
from omfa_jax.weights.model_description import (
    DESCRIPTION_FILES,
    ModelDescription,
    write_description,
)
from omfa_jax.weights.prompt_table import PromptTable
from omfa_jax.weights.tensor_files import DTYPES, STEM, format_names, write_json
from omfa_jax.weights.torch_sources import open_source

Params = dict[str, Any]

EXPORT_FILE = "omfa_export.json"
# endings of a network's files: a single one or shards, and the index of shards
WEIGHT_SUFFIXES = ("safetensors", "safetensors.index.json")
# every file that an exported folder may contain; a folder with others is not replaced
CONTENTS = (
    EXPORT_FILE,
    *DESCRIPTION_FILES,
    *(f"{name}/{STEM}*.{end}" for name in ("unet", "vae") for end in WEIGHT_SUFFIXES),
    "omfa_torch.py",
    "omfa_frame.py",
    # Python writes them when the scripts are imported
    "__pycache__/omfa_torch.*.pyc",
    "__pycache__/omfa_frame.*.pyc",
)

# what every reader of a diffusers folder, of this package or not, asks for first
NEEDED = ("unet/config.json",)
# diffusers' own default
MAX_SHARD_BYTES = 10 * 10**9
# run an exported folder in PyTorch; copied into exports, never imported here
SERVING_SCRIPTS = tuple(
    Path(__file__).parents[1] / "assets" / name for name in ("omfa_torch.py", "omfa_frame.py")
)


@dataclass(frozen=True)
class LoadedModel(ModelDescription):
    """A description with parameters, which are trees of float32 numpy arrays.

    `inputs` is the meaning of conv_in's channels, None if unknown; `notes` lists what was changed.
    """

    unet_params: Params
    vae_params: Params
    inputs: SourceInputs | None = None
    notes: tuple[str, ...] = ()


def save_diffusers(
    folder: AnyPath,
    *,
    unet_config: UNetConfig,
    unet_params: Mapping[str, Any],
    vae_config: VAEConfig,
    vae_params: Mapping[str, Any],
    scheduler: Mapping[str, Any] | None,
    omfa: Mapping[str, Any] | None,
    prompts: PromptTable | None,
    dtype: str = "fp32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that diffusers can load, atomically; an earlier export there is replaced.

    `scheduler` becomes scheduler_config.json and `omfa` omfa.json. `dtype` (fp32, fp16, bf16) is
    the dtype on disk. A network larger than `max_shard_bytes` is split into shards with an index.
    Lazy leaves are read one at a time. `origin` is stored in omfa_export.json, the file that marks
    the folder as an export. With both `omfa` and `prompts`, `omfa_torch.py` is added, which runs
    the model in PyTorch. Raises OmfaError for NaN and infinity.
    """
    if dtype not in DTYPES:
        raise make_unknown_name_error("dtype", dtype, DTYPES)
    description = ModelDescription(
        unet_config,
        vae_config,
        None if scheduler is None else dict(scheduler),
        None if omfa is None else dict(omfa),
        prompts,
    )
    networks = {"unet": unet_params, "vae": vae_params}
    rows = {name: tensor_names.make_name_table(params) for name, params in networks.items()}
    # filled while the tensors are written, so that they are read once
    not_finite: list[str] = []
    needed = sum(
        safetensors_stream.compute_size_bytes(row.shape, dtype)
        for part in rows.values()
        for row in part
    )
    with atomic_dir(folder, CONTENTS, marks=NEEDED) as temporary:
        safetensors_stream.require_space(temporary, needed, folder)
        for name, params in networks.items():
            shards = safetensors_stream.split_shards(rows[name], dtype, max_shard_bytes)
            by_file = dict(
                zip(safetensors_stream.make_shard_names(len(shards)), shards, strict=True)
            )
            for file, part in by_file.items():
                finite = _check_finite(
                    tensor_names.iter_torch_tensors(params, part), name, not_finite
                )
                chunks = safetensors_stream.cast_chunks(finite, dtype)
                shapes = {row.key: row.shape for row in part}
                path = temporary / name / file
                safetensors_stream.write_tensor_stream(
                    path, shapes, dtype, chunks, {"format": "pt"}
                )
            if len(shards) > 1:
                safetensors_stream.write_index(temporary / name, by_file, dtype)
        if not_finite:
            raise OmfaError(
                f"{len(not_finite)} tensors contain NaN or infinity ({format_names(not_finite)}):"
                " nothing was written; export an earlier checkpoint"
            )
        write_description(temporary, description)
        write_json(
            temporary / EXPORT_FILE, {"dtype": dtype, "omfa_jax": __version__, **(origin or {})}
        )
        # the script needs both files; a plain diffusers folder is exported without it
        if omfa is not None and prompts is not None:
            for script in SERVING_SCRIPTS:
                shutil.copyfile(script, temporary / script.name)


def _check_finite(
    chunks: safetensors_stream.Chunks, network: str, faulty: list[str]
) -> safetensors_stream.Chunks:
    for key, chunk in chunks:
        if not np.isfinite(chunk).all():
            faulty.append(f"{network}/{key}")
        yield key, chunk


def load_diffusers(folder: AnyPath, *, inputs: Groups | None = None) -> LoadedModel:
    """Return the model in a diffusers folder, exported by this package or a third party's.

    `inputs` maps the first convolution to these channel groups (see conv_in.py); a change is added
    to the notes. All missing, unexpected, misshapen and NaN tensors are reported in one OmfaError.
    """
    source = open_source(folder)
    params = tensor_names.from_torch(source.components)
    return map_conv_in(source, params["unet"], params["vae"], source.inputs, inputs, source.notes)


def map_conv_in(
    source: ModelDescription,
    unet_params: Params,
    vae_params: Params,
    known: SourceInputs | None,
    wanted: Groups | None,
    notes: tuple[str, ...] = (),
) -> LoadedModel:
    """Return the model with its first convolution mapped to `wanted`, if given."""
    config = source.unet_config
    if wanted is not None:
        change = ChannelMap(require_known(known, config.in_channels, "the weights"), wanted)
        known = SourceInputs(wanted, change.source.rule)
        if change.is_changed:
            # all other leaves stay the memory maps that they were
            leaves = dict(trees.flatten(unet_params))
            leaves[KERNEL_PATH] = change.apply(leaves[KERNEL_PATH])
            unet_params, notes = trees.unflatten(leaves), (*notes, change.note)
            config = dataclasses.replace(config, in_channels=leaves[KERNEL_PATH].shape[2])
    return LoadedModel(
        unet_config=config,
        unet_params=unet_params,
        vae_config=source.vae_config,
        vae_params=vae_params,
        scheduler=source.scheduler,
        omfa=source.omfa,
        prompts=source.prompts,
        inputs=known,
        notes=notes,
    )
