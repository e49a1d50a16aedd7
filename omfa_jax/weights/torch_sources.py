"""Source weights: diffusers folders and original single files, opened without reading tensors."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from omfa_jax.core.atomic_files import require_dir
from omfa_jax.core.errors import OmfaError, raise_all
from omfa_jax.models import UNetConfig, VAEConfig, init_unet, init_vae
from omfa_jax.weights import conv_in, diffusers_configs, ldm_names, scheduler_statements
from omfa_jax.weights.model_description import ModelDescription, read_description
from omfa_jax.weights.tensor_files import read_json
from omfa_jax.weights.tensor_names import Component, update_key
from omfa_jax.weights.torch_tensors import LazyTensors, open_model, open_safetensors

SDXL_SCALE = VAEConfig.scaling_factor
# IP-Adapter weights that a UNet file may contain; our network has no such layers
IMAGE_PROMPT_ADAPTER = re.compile(r"^encoder_hid_proj\.|\.to_[kv]_ip\.")


@dataclass(frozen=True)
class TorchSource(ModelDescription):
    """A model to import: its description and its unread components `unet` and `vae`.

    `inputs` is the meaning of conv_in's channels, None if unknown; `statements` concern schedule
    and prediction type; `notes` lists what was assumed or left out.
    """

    components: dict[str, Component]
    inputs: conv_in.SourceInputs | None
    statements: tuple[scheduler_statements.Statement, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _NetworkSource:
    """One network of a source: its config, its tensors, and what was assumed or left out.

    `statements` are set for the UNet of a single file.
    """

    config: Any
    component: Component
    notes: tuple[str, ...] = ()
    statements: tuple[scheduler_statements.Statement, ...] = ()


def open_source(
    path: Path,
    *,
    vae: Path | None = None,
    vae_scale: float | None = None,
    inputs: Sequence[str] | None = None,
) -> TorchSource:
    """Return the model in a diffusers folder or an original `.safetensors` file.

    `vae` is another file or folder to take the VAE from, `vae_scale` overrides its scaling factor,
    and `inputs` names the groups of conv_in's channels. Errors of UNet and VAE are raised together.
    """
    path = Path(path)
    if path.is_dir() and not (path / "unet").is_dir():
        raise OmfaError(
            f"{path} has no folder unet: give a diffusers folder or SDXL's original .safetensors"
            " file"
        )
    # try both, so that one run shows the errors of both
    parts, errors = [], []
    for open_part in (_open_unet, lambda source: _open_vae(source if vae is None else vae)):
        try:
            parts.append(open_part(path))
        except OmfaError as error:
            errors.append(error)
    raise_all(errors)
    unet, own_vae = parts
    notes = list(unet.notes) + ([] if vae is None else [f"VAE from {vae}"]) + list(own_vae.notes)
    vae_config: VAEConfig = own_vae.config
    if vae_scale is not None:
        vae_config = dataclasses.replace(vae_config, scaling_factor=vae_scale)
    # another factor is legitimate, but the usual sign of Stable Diffusion 1's VAE (0.18215)
    elif vae_config.latent_channels == 4 and vae_config.scaling_factor != SDXL_SCALE:
        notes.append(
            f"the VAE's scaling factor is {vae_config.scaling_factor}; SDXL's is {SDXL_SCALE}"
        )
    if path.is_file():
        statements = unet.statements
        found = describe_single_file(unet.config, vae_config, statements)
    else:
        found = read_description(path, vae_config)
        statements = scheduler_statements.parse_scheduler_config(found.scheduler or {})
        notes += check_pipeline(path)
    channels = conv_in.infer_source_inputs(
        unet.config.in_channels, vae_config.latent_channels, found.omfa, inputs
    )
    components = {"unet": unet.component, "vae": own_vae.component}
    return TorchSource(
        **vars(found),
        components=components,
        inputs=channels,
        statements=statements,
        notes=tuple(notes),
    )


def describe_single_file(
    unet_config: UNetConfig,
    vae_config: VAEConfig,
    statements: Sequence[scheduler_statements.Statement] = (),
) -> ModelDescription:
    """Return the description of an original file: SDXL's schedule with its statements applied.

    `scheduler` is None if the statements name an unsupported process.
    """
    fields = scheduler_statements.make_scheduler_config(
        diffusers_configs.SDXL_SCHEDULER, statements
    )
    return ModelDescription(unet_config, vae_config, fields, None, None)


def check_pipeline(folder: Path) -> list[str]:
    """Return a note if a folder's pipeline is not SDXL's; OmfaError for SDXL's refiner."""
    index = folder / "model_index.json"
    fields = read_json(index) if index.is_file() else {}
    if fields.get("requires_aesthetics_score"):
        raise OmfaError(
            f"{index}: requires_aesthetics_score is true: this is SDXL's refiner, whose text and"
            " size embeddings differ from the base model's; give the base model"
        )
    name = str(fields.get("_class_name", "StableDiffusionXLPipeline"))
    if name.startswith("StableDiffusionXL"):
        return []
    return [f"model_index.json: its class is {name}; only UNet, VAE and text encoders are read"]


def open_diffusers_unet(config: UNetConfig, folder: Path) -> Component:
    """Open the UNet in a diffusers component folder."""
    return Component(get_unet_shapes(config), open_model(folder))


def open_diffusers_vae(config: VAEConfig, folder: Path) -> Component:
    """Open the VAE in a diffusers component folder of any version."""
    return Component(get_vae_shapes(config), update_keys(open_model(folder)))


def get_unet_shapes(config: UNetConfig) -> dict[str, Any]:
    """Return the parameter tree of a UNet as jax.ShapeDtypeStructs."""
    return jax.eval_shape(lambda: init_unet(config, jax.random.key(0)))


def get_vae_shapes(config: VAEConfig) -> dict[str, Any]:
    """Return the parameter tree of a VAE as jax.ShapeDtypeStructs."""
    return jax.eval_shape(lambda: init_vae(config, jax.random.key(0)))


def _open_unet(path: Path) -> _NetworkSource:
    if path.is_file():
        return _parse_unet_file(_require_safetensors(path))
    config_file = require_dir(path, "weights", "SRC") / "unet" / "config.json"
    fields = read_json(config_file)
    config = diffusers_configs.parse_diffusers_unet_config(fields, str(config_file))
    notes = diffusers_configs.list_unread_fields(
        fields, diffusers_configs.UNET_READ, "UNet2DConditionModel", "unet/config.json"
    )
    unet = open_diffusers_unet(config, path / "unet")
    adapter = {key for key in unet.tensors.shapes if IMAGE_PROMPT_ADAPTER.search(key)}
    if not adapter:
        return _NetworkSource(config, unet, tuple(notes))
    notes.append(f"left out {len(adapter)} tensors of the image-prompt adapter")
    return _NetworkSource(
        config, Component(unet.tree, unet.tensors.drop_keys(adapter)), tuple(notes)
    )


def _parse_unet_file(tensors: LazyTensors) -> _NetworkSource:
    config = ldm_names.infer_unet_config(tensors.shapes, tensors.where)
    notes = [
        "assuming SDXL's 64 channels per head and 32 norm groups: the file does not state them"
    ]
    skipped = {key for key in tensors.shapes if key.startswith(ldm_names.VAE_PREFIX)}
    for prefix, what in ldm_names.SKIPPED.items():
        keys = {key for key in tensors.shapes if key.startswith(prefix)}
        skipped |= keys
        if keys:
            notes.append(f"left out {what} ({len(keys)} tensors {prefix}*)")
    notes += scheduler_statements.list_ignored_metadata(tensors.metadata)
    constants = {
        key for key in tensors.shapes.keys() - skipped if scheduler_statements.is_constant(key)
    }
    if constants:
        named = ", ".join(sorted(constants))
        notes.append(f"left out {len(constants)} tensors that belong to no network ({named})")
    # what is left must fill the network exactly: an unknown tensor is an error, not ignored
    column = ldm_names.make_unet_key_fn(config)
    component = Component(get_unet_shapes(config), tensors.drop_keys(skipped | constants), column)
    return _NetworkSource(
        config, component, tuple(notes), scheduler_statements.parse_single_file(tensors)
    )


def _open_vae(path: Path) -> _NetworkSource:
    """Open the VAE of a model folder, of a separate folder or of an original file."""
    path = Path(path)
    if path.is_file():
        return _parse_vae_file(_require_safetensors(path))
    folder = path / "vae" if (path / "vae").is_dir() else path
    config_file = folder / "config.json"
    fields = read_json(config_file)
    config = diffusers_configs.parse_diffusers_vae_config(fields, str(config_file))
    notes = diffusers_configs.list_unread_fields(
        fields, diffusers_configs.VAE_READ, "AutoencoderKL", "vae/config.json"
    )
    return _NetworkSource(config, open_diffusers_vae(config, folder), tuple(notes))


def _parse_vae_file(tensors: LazyTensors) -> _NetworkSource:
    if any(key.startswith(ldm_names.UNET_PREFIX) for key in tensors.shapes):
        # raises for Stable Diffusion 1, whose VAE has the same shapes but another scaling factor
        ldm_names.infer_unet_config(tensors.shapes, tensors.where)
    # a file with only the VAE has no prefix
    has_prefix = any(key.startswith(ldm_names.VAE_PREFIX) for key in tensors.shapes)
    prefix = ldm_names.VAE_PREFIX if has_prefix else ""
    config = ldm_names.infer_vae_config(tensors.shapes, prefix)
    others = {
        k for k in tensors.shapes if not k.startswith(prefix) or scheduler_statements.is_constant(k)
    }
    column = ldm_names.make_vae_key_fn(config, prefix)
    component = Component(get_vae_shapes(config), tensors.drop_keys(others), column)
    scale = scheduler_statements.read_vae_scale(tensors)
    if scale is not None:
        config = dataclasses.replace(config, scaling_factor=scale)
        return _NetworkSource(config, component)
    note = (
        f"assuming SDXL's VAE scaling factor {SDXL_SCALE}: {tensors.where} does not state it"
        " (set it with --vae-scale)"
    )
    return _NetworkSource(config, component, (note,))


def _require_safetensors(path: Path) -> LazyTensors:
    if path.suffix != ".safetensors":
        raise OmfaError(
            f"{path}: expected a .safetensors file or a diffusers folder; pickled checkpoints can"
            " run code, convert them to safetensors first"
        )
    return open_safetensors([path], str(path))


def update_keys(tensors: LazyTensors) -> LazyTensors:
    """Return the tensors under diffusers' current names."""
    now: dict[str, str] = {}
    faulty = {update_key(key): reason for key, reason in tensors.faulty.items()}
    for key in tensors.shapes:
        name = update_key(key)
        if name in now:
            faulty[name] = f"is present twice, as {now[name]} and as {key}"
        now[name] = key
    shapes = {name: tensors.shapes[key] for name, key in now.items()}
    return dataclasses.replace(
        tensors, shapes=shapes, read=lambda name: tensors.read(now[name]), faulty=faulty
    )
