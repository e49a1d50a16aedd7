"""Models that somebody else wrote: diffusers folders and original single files, opened unread."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig, init_unet, init_vae
from omfa_jax.weights import configs, conv_in, ldm
from omfa_jax.weights.description import Description, read_description
from omfa_jax.weights.files import read_json
from omfa_jax.weights.names import Component, current_name
from omfa_jax.weights.tensors import Tensors, open_model, open_safetensors

# What a UNet may carry that our network has no place for.
IMAGE_PROMPT_ADAPTER = re.compile(r"^encoder_hid_proj\.|\.to_[kv]_ip\.")


@dataclass(frozen=True)
class Source(Description):
    """A model by its description and its unread components `unet` and `vae`.

    `inputs` is what conv_in's channels mean, None if nothing says so; `notes` tells what was
    assumed or left out.
    """

    components: dict[str, Component]
    inputs: conv_in.SourceInputs | None
    notes: tuple[str, ...]


def open_source(
    path: Path, *, vae: Path | None = None, inputs: Sequence[str] | None = None
) -> Source:
    """Return the model in a diffusers folder or in an original `.safetensors` file.

    `vae` names another place of the VAE; `inputs` names the groups of conv_in's channels.
    """
    path = Path(path)
    source = _open_file(path) if path.is_file() else _open_folder(path)
    description, unet, own_vae, notes = source
    if vae is not None:
        config, own_vae = open_vae(vae)
        notes = [*notes, f"VAE from {vae}"]
        description = {**description, "vae_config": config}
    unet_config, vae_config = description["unet_config"], description["vae_config"]
    channels = conv_in.source_inputs(
        unet_config.in_channels, vae_config.latent_channels, description["omfa"], inputs
    )
    components = {"unet": unet, "vae": own_vae}
    return Source(**description, components=components, inputs=channels, notes=tuple(notes))


def open_vae(path: Path) -> tuple[VAEConfig, Component]:
    """Return the VAE of a model folder, of a folder of its own or of an original file."""
    path = Path(path)
    if path.is_file():
        return _vae_in_file(_require_safetensors(path))
    folder = path / "vae" if (path / "vae").is_dir() else path
    config = folder / "config.json"
    vae_config = configs.vae_from_diffusers(read_json(config), str(config))
    return vae_config, diffusers_vae(vae_config, folder)


def diffusers_unet(config: UNetConfig, folder: Path) -> Component:
    """Return the UNet in a diffusers component folder."""
    return Component(shapes_of_unet(config), open_model(folder))


def diffusers_vae(config: VAEConfig, folder: Path) -> Component:
    """Return the VAE in a diffusers component folder, whichever version wrote it."""
    return Component(shapes_of_vae(config), renamed(open_model(folder)))


def shapes_of_unet(config: UNetConfig) -> dict[str, Any]:
    """Return the parameter tree of a UNet with shapes in place of arrays."""
    return jax.eval_shape(lambda: init_unet(config, jax.random.key(0)))


def shapes_of_vae(config: VAEConfig) -> dict[str, Any]:
    """Return the parameter tree of a VAE with shapes in place of arrays."""
    return jax.eval_shape(lambda: init_vae(config, jax.random.key(0)))


def _open_folder(path: Path) -> tuple[dict[str, Any], Component, Component, list[str]]:
    found = read_description(path)
    unet = diffusers_unet(found.unet_config, path / "unet")
    vae = diffusers_vae(found.vae_config, path / "vae")
    adapter = [key for key in unet.tensors.shapes if IMAGE_PROMPT_ADAPTER.search(key)]
    notes = []
    if adapter:
        notes.append(f"left out {len(adapter)} tensors of the image-prompt adapter")
        unet = Component(unet.tree, _without(unet.tensors, set(adapter)))
    return dict(vars(found)), unet, vae, notes


def _open_file(path: Path) -> tuple[dict[str, Any], Component, Component, list[str]]:
    tensors = _require_safetensors(path)
    unet_config = ldm.unet_config(tensors.shapes, str(path))
    vae_config, vae = _vae_in_file(tensors)
    notes = [
        "heads of 64 channels, 32 norm groups and the VAE's scale 0.13025 are SDXL's: the file"
        " does not say"
    ]
    skipped = set()
    for prefix, what in ldm.SKIPPED.items():
        keys = {key for key in tensors.shapes if key.startswith(prefix)}
        skipped |= keys
        if keys:
            notes.append(f"left out {what} ({len(keys)} tensors {prefix}*)")
    in_vae = {key for key in tensors.shapes if key.startswith(ldm.VAE_PREFIX)}
    column = ldm.unet_column(unet_config)
    unet = Component(shapes_of_unet(unet_config), _without(tensors, skipped | in_vae), column)
    description = {
        "unet_config": unet_config,
        "vae_config": vae_config,
        "scheduler": None,
        "omfa": None,
        "prompts": None,
    }
    return description, unet, vae, notes


def _vae_in_file(tensors: Tensors) -> tuple[VAEConfig, Component]:
    # a file of the VAE alone has no prefix
    whole = any(key.startswith(ldm.VAE_PREFIX) for key in tensors.shapes)
    prefix = ldm.VAE_PREFIX if whole else ""
    config = ldm.vae_config(tensors.shapes, prefix, tensors.where)
    others = {key for key in tensors.shapes if not key.startswith(prefix)}
    column = ldm.vae_column(config, prefix)
    return config, Component(shapes_of_vae(config), _without(tensors, others), column)


def _require_safetensors(path: Path) -> Tensors:
    if path.suffix != ".safetensors":
        raise OmfaError(
            f"{path}: expected a .safetensors file or a folder in diffusers' form; pickled"
            " checkpoints can run code, convert them first"
        )
    return open_safetensors([path], str(path))


def renamed(tensors: Tensors) -> Tensors:
    """Return the tensors under the names that diffusers has for them today."""
    now = {current_name(key): key for key in tensors.shapes}
    shapes = {name: tensors.shapes[key] for name, key in now.items()}
    return Tensors(tensors.where, shapes, lambda name: tensors.read(now[name]))


def _without(tensors: Tensors, keys: set[str]) -> Tensors:
    kept = {key: shape for key, shape in tensors.shapes.items() if key not in keys}
    return Tensors(tensors.where, kept, tensors.read)
