"""A model folder's frozen part: settings, schedule, prompts and VAE; the UNet lives elsewhere."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_write
from omfa_jax.core.folders import atomic_dir
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig
from omfa_jax.weights import names
from omfa_jax.weights.bundle import Bundle, Params
from omfa_jax.weights.description import FILES, Description, read_description, write_description
from omfa_jax.weights.files import STEM, write_json, write_tensors
from omfa_jax.weights.imported import is_imported, load_params
from omfa_jax.weights.prompts import PromptTable, joined, save_prompts
from omfa_jax.weights.scheduler import PREDICTIONS
from omfa_jax.weights.sources import diffusers_vae

log = logging.getLogger(__name__)

# all that the folder holds; an export or an import holds more, and is not replaced
CONTENTS = ("omfa.json", *FILES, f"vae/{STEM}.safetensors")


def scheduler_config(settings: DiffusionSettings) -> dict[str, Any]:
    """Return diffusers' DDIMScheduler config; every field is explicit, its defaults differ.

    DDIM is the sampler of the paper and of our default; for the others' twins give this config to
    `EulerDiscreteScheduler.from_config` or `DPMSolverMultistepScheduler.from_config`.
    """
    schedule = settings.schedule
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.train_steps,
        "beta_schedule": "scaled_linear",
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "trained_betas": None,
        "clip_sample": False,
        "thresholding": False,
        "set_alpha_to_one": False,
        "steps_offset": schedule.steps_offset,
        "timestep_spacing": schedule.spacing,
        "prediction_type": PREDICTIONS[settings.prediction][0],
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }


def describe(bundle: Bundle) -> Description:
    """Return what a model folder says besides the parameters."""
    texts = (*(task.prompt for task in bundle.settings.tasks), "")
    return Description(
        unet_config=bundle.unet_config,
        vae_config=bundle.vae_config,
        scheduler=scheduler_config(bundle.settings),
        omfa=bundle.settings.to_json(),
        prompts=PromptTable(texts, bundle.prompts["context"], bundle.prompts["pooled"]),
    )


def save_frozen(folder: Path, bundle: Bundle) -> None:
    """Write everything but the UNet's parameters; the folder appears whole."""
    with atomic_dir(folder, CONTENTS) as temporary:
        write_description(temporary, describe(bundle))
        path = temporary / "vae" / f"{STEM}.safetensors"
        write_tensors(path, names.to_torch(bundle.vae_params), "fp32", {"format": "pt"})


def save_tasks(folder: Path, bundle: Bundle) -> None:
    """Write the bundle's tasks into a folder of `save_frozen`; nothing if they are there already.

    The prompt table keeps the wording that it had, so that at any moment the two files fit.
    """
    before = read_description(folder)
    if before.omfa is not None and DiffusionSettings.from_json(before.omfa) == bundle.settings:
        return
    now = describe(bundle)
    assert now.prompts is not None and now.omfa is not None
    table = now.prompts if before.prompts is None else joined(now.prompts, before.prompts)
    with atomic_write(folder / "prompts.safetensors") as temporary:
        save_prompts(temporary, table)
    with atomic_write(folder / "omfa.json") as temporary:
        write_json(temporary, now.omfa)
    log.info("%s now says the tasks that are trained from here on", folder)


def load_vae(folder: Path, config: VAEConfig) -> Params:
    """Return the VAE's parameters in a model folder of either form."""
    if is_imported(folder):
        return load_params(folder, ["vae"])["vae"]
    return names.from_torch({"vae": diffusers_vae(config, Path(folder) / "vae")})["vae"]


def load_frozen(folder: Path) -> Bundle:
    """Return the bundle of a folder of ours, without UNet parameters."""
    description = read_description(folder)
    return bundle_of(description, None, load_vae(folder, description.vae_config), str(folder))


def bundle_of(
    description: Description, unet_params: Params | None, vae_params: Params, where: str
) -> Bundle:
    """Return the bundle of a description that says what its weights mean (omfa.json, prompts)."""
    missing = [
        file
        for file, part in {
            "omfa.json": description.omfa,
            "prompts.safetensors": description.prompts,
        }.items()
        if part is None
    ]
    if missing or description.omfa is None or description.prompts is None:
        raise OmfaError(
            f"{where} has no {' and no '.join(missing)}: it is not a model of omfa_jax; train from"
            " it with --config.model.init, or give a folder that convert_weights.py export wrote"
        )
    settings = DiffusionSettings.from_json(description.omfa)
    rows = description.prompts.rows([task.prompt for task in settings.tasks])
    prompts = {name: np.asarray(value, np.float32) for name, value in rows.items()}
    return Bundle(
        settings, description.unet_config, description.vae_config, unet_params, vae_params, prompts
    )
