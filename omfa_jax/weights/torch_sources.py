"""Source weights: diffusers folders and original single files, opened without reading tensors."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omfa_jax.core.errors import OmfaError, raise_all
from omfa_jax.core.path_checks import require_any_dir, require_any_file
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.models import UNetConfig, VAEConfig, get_unet_shapes, get_vae_shapes
from omfa_jax.weights import conv_in, diffusers_configs, scheduler_statements, single_networks
from omfa_jax.weights.lora import LoraFile, merge_loras
from omfa_jax.weights.model_description import ModelDescription, read_description
from omfa_jax.weights.network_source import NetworkSource, describe_tensors
from omfa_jax.weights.single_file import (
    UNET_START,
    VAE_START,
    SingleFile,
    find_file_in,
    open_single_file,
    unwrap_component,
)
from omfa_jax.weights.tensor_files import make_printable, read_json
from omfa_jax.weights.tensor_names import Component, update_key
from omfa_jax.weights.torch_tensors import LazyTensors, open_model

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


def open_source(
    path: AnyPath,
    *,
    vae: AnyPath | None = None,
    vae_scale: float | None = None,
    inputs: Sequence[str] | None = None,
    loras: Sequence[LoraFile] = (),
    allow_fp8: bool = False,
) -> TorchSource:
    """Return the model in a diffusers folder or in a single file, whose index may list shards.

    `vae` is another file or folder to take the VAE from, `vae_scale` overrides its scaling factor,
    `inputs` names the groups of conv_in's channels, `loras` are merged into the UNet and
    `allow_fp8` accepts 8-bit floats. Errors of UNet and VAE are raised together, each once.
    """
    path = resolve_source(path)
    file = open_single_file(path) if path.is_file() else None
    if file is None:
        require_any_dir(path, "weights", "SRC")
    elif file.unet is None:
        # raises, with what the file is instead
        single_networks.parse_unet(file)
    # try both, so that one run shows the errors of both
    parts, errors = [], []
    for open_part in (
        lambda: _merge(_open_unet(path, file), loras),
        lambda: _open_vae(path, file) if vae is None else _open_other_vae(to_path(vae)),
    ):
        try:
            parts.append(open_part())
        except OmfaError as error:
            errors.append(error)
    # a fault of a single file concerns both
    raise_all(list({str(error): error for error in errors}.values()))
    unet, own_vae = parts
    notes = list(unet.notes) + ([] if vae is None else [f"VAE from {vae}"]) + list(own_vae.notes)
    for name, part in (("UNet", unet), ("VAE", own_vae)):
        notes += describe_tensors(part.component, name, allow_fp8=allow_fp8)
    vae_config: VAEConfig = own_vae.config
    if vae_scale is not None:
        vae_config = dataclasses.replace(vae_config, scaling_factor=vae_scale)
    # another factor is legitimate, but the usual sign of Stable Diffusion 1's VAE (0.18215)
    elif vae_config.latent_channels == 4 and vae_config.scaling_factor != SDXL_SCALE:
        notes.append(
            f"the VAE's scaling factor is {vae_config.scaling_factor}; SDXL's is {SDXL_SCALE}"
        )
    if file is not None:
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


def resolve_source(path: AnyPath) -> AnyPath:
    """Return `path`, or the index of a sharded checkpoint in a folder that is not diffusers'."""
    path = to_path(path)
    return find_file_in(path) if path.is_dir() and not (path / "unet").is_dir() else path


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


def check_pipeline(folder: AnyPath) -> list[str]:
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


def open_diffusers_unet(config: UNetConfig, folder: AnyPath) -> Component:
    """Open the UNet in a diffusers component folder."""
    return Component(get_unet_shapes(config), open_model(folder))


def open_diffusers_vae(config: VAEConfig, folder: AnyPath) -> Component:
    """Open the VAE in a diffusers component folder of any version."""
    return Component(get_vae_shapes(config), update_keys(open_model(folder)))


def _open_unet(path: AnyPath, file: SingleFile | None) -> NetworkSource:
    if file is not None:
        return single_networks.parse_unet(file)
    config_file = path / "unet" / "config.json"
    fields = read_json(config_file)
    _require_class(fields, "UNet2DConditionModel", config_file)
    config = diffusers_configs.parse_diffusers_unet_config(fields, str(config_file))
    notes = diffusers_configs.list_unread_fields(
        fields, diffusers_configs.UNET_READ, "UNet2DConditionModel", "unet/config.json"
    )
    unet = open_diffusers_unet(config, path / "unet")
    tensors, unwrapped = unwrap_component(unet.tensors, UNET_START)
    notes += [f"unet: {note}" for note in unwrapped]
    adapter = {key for key in tensors.shapes if IMAGE_PROMPT_ADAPTER.search(key)}
    if adapter:
        notes.append(f"left out {len(adapter)} tensors of the image-prompt adapter")
    return NetworkSource(config, Component(unet.tree, tensors.drop_keys(adapter)), tuple(notes))


def _merge(unet: NetworkSource, loras: Sequence[LoraFile]) -> NetworkSource:
    if not loras:
        return unet
    component, notes = merge_loras(unet.component, unet.config, loras)
    return dataclasses.replace(unet, component=component, notes=(*unet.notes, *notes))


def _open_other_vae(path: AnyPath) -> NetworkSource:
    if path.is_dir():
        return _open_vae(path, None)
    file = open_single_file(require_any_file(path, "VAE", "--vae"), "--vae")
    network = _open_vae(path, file)
    return dataclasses.replace(network, notes=(*file.notes, *network.notes))


def _open_vae(path: AnyPath, file: SingleFile | None) -> NetworkSource:
    """Open the VAE of a model folder, of a separate folder or of a single file."""
    if file is not None:
        return single_networks.parse_vae(file)
    if not any((path / name).is_file() for name in ("vae/config.json", "config.json")):
        raise OmfaError(
            f"{path} has no VAE (no vae/config.json): give one with --vae, a diffusers folder, its"
            " folder vae, or a file"
        )
    folder = path / "vae" if (path / "vae").is_dir() else path
    config_file = folder / "config.json"
    fields = read_json(config_file)
    _require_class(fields, "AutoencoderKL", config_file)
    config = diffusers_configs.parse_diffusers_vae_config(fields, str(config_file))
    notes = diffusers_configs.list_unread_fields(
        fields, diffusers_configs.VAE_READ, "AutoencoderKL", "vae/config.json"
    )
    opened = open_diffusers_vae(config, folder)
    tensors, unwrapped = unwrap_component(opened.tensors, VAE_START)
    notes += [f"vae: {note}" for note in unwrapped]
    return NetworkSource(config, Component(opened.tree, tensors), tuple(notes))


def _require_class(fields: Mapping[str, Any], word: str, config_file: AnyPath) -> None:
    """Raise an OmfaError for the config.json of a network of another kind."""
    name = str(fields.get("_class_name", word))
    if word not in name:
        raise OmfaError(
            f"{config_file} describes {make_printable(name)}, expected SDXL's {word}; give the"
            " folder as diffusers writes it"
        )


def update_keys(tensors: LazyTensors) -> LazyTensors:
    """Return the tensors under diffusers' current names."""
    return tensors.rename_keys(update_key)
