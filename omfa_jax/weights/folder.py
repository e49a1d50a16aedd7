"""Model folders in diffusers' form, written and read with numpy alone."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_dir
from omfa_jax.models import UNetConfig, VAEConfig, init_unet, init_vae
from omfa_jax.weights import names
from omfa_jax.weights.description import Description, read_description, write_description
from omfa_jax.weights.files import STEM, open_model, write_tensors
from omfa_jax.weights.prompts import PromptTable

Params = dict[str, Any]

# runs an exported folder in PyTorch; nothing here imports it
SERVE = Path(__file__).parents[1] / "assets" / "omfa_torch.py"


@dataclass(frozen=True)
class LoadedModel(Description):
    """A model in memory: parameters are numpy float32 trees; `notes` says what was changed."""

    unet_params: Params
    vae_params: Params
    notes: tuple[str, ...] = ()


def save_diffusers(
    folder: Path,
    *,
    unet_config: UNetConfig,
    unet_params: Mapping[str, Any],
    vae_config: VAEConfig,
    vae_params: Mapping[str, Any],
    scheduler: Mapping[str, Any] | None,
    omfa: Mapping[str, Any] | None,
    prompts: PromptTable | None,
    dtype: str = "fp32",
) -> None:
    """Write a folder that diffusers loads; it appears whole, in place of one that was there.

    `scheduler` is diffusers' scheduler_config.json; `omfa` is stored as omfa.json. `dtype` (fp32,
    fp16, bf16) is that of the tensors on disk. With `omfa` and `prompts` the folder can be served:
    `omfa_torch.py`, which runs it in PyTorch, is put beside them.
    """
    description = Description(
        unet_config,
        vae_config,
        None if scheduler is None else dict(scheduler),
        None if omfa is None else dict(omfa),
        prompts,
    )
    with atomic_dir(folder, replaces="unet") as temporary:
        write_description(temporary, description)
        for name, params in (("unet", unet_params), ("vae", vae_params)):
            path = temporary / name / f"{STEM}.safetensors"
            write_tensors(path, names.to_torch(params), dtype, {"format": "pt"})
        if omfa is not None and prompts is not None:
            shutil.copyfile(SERVE, temporary / SERVE.name)


def load_diffusers(folder: Path, *, unet_in_channels: int | None = None) -> LoadedModel:
    """Return the model in a diffusers folder, our own or a foreign one.

    Missing, unexpected and misshapen tensors are one OmfaError. `unet_in_channels` widens the
    first convolution (see `widen_conv_in`) and is noted in `notes` if it changed anything.
    """
    description = read_description(folder)
    trees = {
        "unet": shapes_of_unet(description.unet_config),
        "vae": shapes_of_vae(description.vae_config),
    }
    params = {}
    for name, tree in trees.items():
        keys, read = open_model(Path(folder) / name)
        params[name] = names.from_torch(tree, keys, read, str(Path(folder) / name))
    return widened(description, params["unet"], params["vae"], unet_in_channels)


def shapes_of_unet(config: UNetConfig) -> Params:
    """Return the parameter tree of a UNet with shapes in place of arrays."""
    return jax.eval_shape(lambda: init_unet(config, jax.random.key(0)))


def shapes_of_vae(config: VAEConfig) -> Params:
    """Return the parameter tree of a VAE with shapes in place of arrays."""
    return jax.eval_shape(lambda: init_vae(config, jax.random.key(0)))


def widen_conv_in(params: Mapping[str, Any], in_channels: int) -> Params:
    """Return UNet parameters whose first convolution takes `in_channels` channels.

    The rule: the source's channels come first and keep their weights; the new ones are appended
    with zero weights, so the output does not depend on them until they are trained. Fewer
    channels than the source has are an OmfaError.
    """
    kernel = np.asarray(params["conv_in"]["kernel"])
    new = in_channels - kernel.shape[2]
    if new < 0:
        raise OmfaError(
            f"the source's conv_in takes {kernel.shape[2]} channels, the model wants only "
            f"{in_channels}; add to unet_inputs or give other weights"
        )
    kernel = np.pad(kernel, ((0, 0), (0, 0), (0, new), (0, 0)))
    return {**params, "conv_in": {**params["conv_in"], "kernel": kernel}}


def widened(
    source: Description, unet_params: Params, vae_params: Params, in_channels: int | None
) -> LoadedModel:
    """Return the loaded model, its first convolution widened to `in_channels` if given."""
    config, notes = source.unet_config, ()
    if in_channels is not None and in_channels != config.in_channels:
        unet_params = widen_conv_in(unet_params, in_channels)
        notes = (f"conv_in widened from {config.in_channels} to {in_channels} channels with zeros",)
        config = dataclasses.replace(config, in_channels=in_channels)
    return LoadedModel(
        unet_config=config,
        unet_params=unet_params,
        vae_config=source.vae_config,
        vae_params=vae_params,
        scheduler=source.scheduler,
        omfa=source.omfa,
        prompts=source.prompts,
        notes=notes,
    )
