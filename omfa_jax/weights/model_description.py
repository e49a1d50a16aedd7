"""The parts of a model folder besides parameters: network configs, schedule, settings, prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights import diffusers_configs
from omfa_jax.weights.prompt_table import PromptTable, load_prompts, save_prompts
from omfa_jax.weights.tensor_files import read_json, write_json

# every file that `write_description` may write
DESCRIPTION_FILES = (
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "omfa.json",
    "prompts.safetensors",
)


@dataclass(frozen=True)
class ModelDescription:
    """Everything about a model except its parameters.

    `scheduler`, `omfa` and `prompts` are None if the folder has no such file, as third-party
    folders may.
    """

    unet_config: UNetConfig
    vae_config: VAEConfig
    scheduler: dict[str, Any] | None
    omfa: dict[str, Any] | None
    prompts: PromptTable | None


def write_description(folder: Path, description: ModelDescription) -> None:
    """Write the description's files into `folder`."""
    files = {
        "unet/config.json": diffusers_configs.make_diffusers_unet_config(description.unet_config),
        "vae/config.json": diffusers_configs.make_diffusers_vae_config(description.vae_config),
        "scheduler/scheduler_config.json": description.scheduler,
        "omfa.json": description.omfa,
    }
    for name, fields in files.items():
        if fields is not None:
            write_json(folder / name, fields)
    if description.prompts is not None:
        save_prompts(folder / "prompts.safetensors", description.prompts)


def read_description(folder: AnyPath, vae_config: VAEConfig | None = None) -> ModelDescription:
    """Return the description of the model in `folder`.

    With `vae_config`, the folder's own VAE config is neither read nor required.
    """
    folder = require_any_dir(folder, "weights", "the weights folder")
    unet, vae = folder / "unet" / "config.json", folder / "vae" / "config.json"
    scheduler, omfa = folder / "scheduler" / "scheduler_config.json", folder / "omfa.json"
    prompts = folder / "prompts.safetensors"
    return ModelDescription(
        diffusers_configs.parse_diffusers_unet_config(read_json(unet), str(unet)),
        vae_config or diffusers_configs.parse_diffusers_vae_config(read_json(vae), str(vae)),
        read_json(scheduler) if scheduler.is_file() else None,
        read_json(omfa) if omfa.is_file() else None,
        load_prompts(prompts) if prompts.is_file() else None,
    )
