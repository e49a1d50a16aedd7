"""The UNet and the VAE of a single file: their configs, tensors and what is left out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path
from omfa_jax.models import UNetConfig, VAEConfig, get_unet_shapes, get_vae_shapes
from omfa_jax.weights import (
    diffusers_configs,
    diffusers_names,
    file_contents,
    ldm_names,
    scheduler_statements,
)
from omfa_jax.weights.network_source import NetworkSource
from omfa_jax.weights.single_file import SingleFile
from omfa_jax.weights.tensor_files import format_names, make_printable, read_json
from omfa_jax.weights.tensor_names import Component, update_key

SDXL_SCALE = VAEConfig.scaling_factor
ASSUMED = "assuming SDXL's 64 channels per head and 32 norm groups: the file does not state them"


def parse_unet(file: SingleFile) -> NetworkSource:
    """Return the UNet of a single file; OmfaError if it has none, or another model's."""
    tensors, part, where = file.tensors, file.unet, file.where
    if part is None:
        advice = "give an SDXL checkpoint or a diffusers folder"
        raise file_contents.make_contents_error(tensors.shapes.keys(), where, "UNet", advice)
    prefix, notes = part.prefix, list(file.notes)
    config = None if part.is_original else _read_unet_config(where)
    if config is None:
        config = _infer_unet(file)
        notes.append(ASSUMED)
    if part.is_original:
        column = ldm_names.make_unet_key_fn(config, prefix)
    else:
        column = diffusers_names.make_key_fn(prefix)
    skipped = file.list_vae_keys()
    skipped |= {key for key in tensors.shapes if key.startswith(ldm_names.VAE_PREFIX)}
    left, words = _list_skipped(file, ldm_names.SKIPPED)
    notes += words + scheduler_statements.list_ignored_metadata(tensors.metadata)
    constants = file.constants - skipped - left
    if constants:
        notes.append(
            f"left out {len(constants)} tensors that belong to no network"
            f" ({format_names(sorted(constants))})"
        )
    # what is left must fill the network exactly: an unknown tensor is an error, not ignored
    ours = tensors.drop_keys(skipped | left | constants)
    component = Component(_try_shapes(file, lambda: get_unet_shapes(config)), ours, column)
    statements = scheduler_statements.parse_single_file(tensors)
    return NetworkSource(config, component, tuple(notes), statements)


def parse_vae(file: SingleFile) -> NetworkSource:
    """Return the VAE of a single file; OmfaError if it has none, or Stable Diffusion 1's."""
    tensors, part, where = file.tensors, file.vae, file.where
    if part is None:
        advice = "give one with --vae: a diffusers folder, its folder vae, or a file"
        if file.unet is not None:
            # another model's file does not become usable with a VAE
            _infer_unet(file)
            raise OmfaError(f"{where} has a UNet but no VAE: {advice}")
        raise file_contents.make_contents_error(tensors.shapes.keys(), where, "VAE", advice)
    if file.unet is not None:
        # raises for Stable Diffusion 1, whose VAE has the same shapes but another scaling factor
        _infer_unet(file)
    scale = scheduler_statements.read_vae_scale(tensors)
    if part.is_original:
        config = _try_shapes(file, lambda: ldm_names.infer_vae_config(tensors.shapes, part.prefix))
        column = ldm_names.make_vae_key_fn(config, part.prefix)
    else:
        beside = _read_vae_config(where)
        scale = beside.scaling_factor if beside else scale
        config = beside or _try_shapes(
            file, lambda: diffusers_names.infer_diffusers_vae(tensors.shapes, part.prefix)
        )
        column = diffusers_names.make_key_fn(part.prefix)
    left, notes = _list_skipped(file, ldm_names.VAE_SKIPPED)
    others = file.constants | left | file.list_unet_keys()
    if part.prefix or file.unet is not None:
        others |= tensors.shapes.keys() - file.list_vae_keys()
        notes = []
    ours = tensors.drop_keys(others).rename_keys(update_key)
    component = Component(_try_shapes(file, lambda: get_vae_shapes(config)), ours, column)
    if scale is None:
        notes.append(
            f"assuming SDXL's VAE scaling factor {SDXL_SCALE}: {where} does not state it"
            " (set it with --vae-scale)"
        )
    else:
        config = dataclasses.replace(config, scaling_factor=scale)
    return NetworkSource(config, component, tuple(notes))


def _infer_unet(file: SingleFile) -> UNetConfig:
    part, shapes = file.unet, file.tensors.shapes
    assert part is not None
    if part.is_original:
        return _try_shapes(
            file, lambda: ldm_names.infer_unet_config(shapes, file.where, part.prefix)
        )
    infer = diffusers_names.infer_diffusers_unet
    return _try_shapes(file, lambda: infer(shapes, part.prefix, file.where))


def _try_shapes(file: SingleFile, build: Callable[[], Any]) -> Any:
    """Return what `build` makes of a file's shapes; one OmfaError for shapes of no network."""
    try:
        return build()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        empty = sorted(
            k for k, s in file.tensors.shapes.items() if 0 in s and k not in file.constants
        )
        reason = f"{format_names(empty)} without elements" if empty else str(error)
        reason = make_printable(reason.partition("\n")[0])
    except OmfaError as error:
        reason = str(error)
        if not reason.startswith(("UNetConfig: ", "VAEConfig: ")):
            raise
        # its advice is for those who choose the config
        reason = reason.partition(": ")[2].partition(";")[0]
    raise OmfaError(
        f"{file.where}: the shapes of its tensors are not those of SDXL ({reason}); give SDXL"
        " weights, or a diffusers folder with config.json if the network is another"
    )


def _list_skipped(file: SingleFile, contents: Mapping[str, str]) -> tuple[set[str], list[str]]:
    """Return the keys of known contents that are not imported, and a note on each."""
    skipped, notes = set(), []
    for prefix, what in contents.items():
        keys = {key for key in file.tensors.shapes if key.startswith(prefix)}
        skipped |= keys
        if keys:
            notes.append(f"left out {what} ({len(keys)} tensors {prefix}*)")
    return skipped, notes


def _read_unet_config(where: str) -> UNetConfig | None:
    parse = diffusers_configs.parse_diffusers_unet_config
    return _read_config_beside(where, "UNet2DConditionModel", parse)


def _read_vae_config(where: str) -> VAEConfig | None:
    parse = diffusers_configs.parse_diffusers_vae_config
    return _read_config_beside(where, "AutoencoderKL", parse)


def _read_config_beside(
    where: str, kind: str, parse: Callable[[Mapping[str, Any], str], Any]
) -> Any:
    """Return the config in the config.json beside a file, None if there is none of this kind."""
    path = to_path(where).with_name("config.json")
    fields = read_json(path) if path.is_file() else {}
    return parse(fields, str(path)) if fields.get("_class_name") == kind else None
