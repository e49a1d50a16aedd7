"""The model folder of a training run: settings, schedule, prompts and VAE, without the UNet."""

import logging
from typing import Any

import numpy as np

from omfa_jax.core.atomic_dirs import atomic_dir
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig
from omfa_jax.weights import tensor_names
from omfa_jax.weights.imported_folder import is_imported, load_params
from omfa_jax.weights.model_description import (
    DESCRIPTION_FILES,
    ModelDescription,
    read_description,
    write_description,
)
from omfa_jax.weights.network_source import describe_tensors
from omfa_jax.weights.omfa_model import Model, Params
from omfa_jax.weights.prompt_table import PromptTable, merge_tables, save_prompts
from omfa_jax.weights.scheduler_statements import PREDICTIONS
from omfa_jax.weights.tensor_files import STEM, write_json, write_tensors
from omfa_jax.weights.torch_sources import open_diffusers_vae

log = logging.getLogger(__name__)

# every file of the folder; an exported or imported folder has others and is never replaced
CONTENTS = ("omfa.json", *DESCRIPTION_FILES, f"vae/{STEM}.safetensors")


def make_ddim_config(settings: DiffusionSettings) -> dict[str, Any]:
    """Return diffusers' DDIMScheduler config, with every field set, since its defaults differ.

    DDIM is the paper's sampler and our default. The equivalents of the other samplers are
    `EulerDiscreteScheduler.from_config` and `DPMSolverMultistepScheduler.from_config` of it.
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


def describe_model(model: Model) -> ModelDescription:
    """Return the description to be stored with a model's parameters."""
    # the rows of a model's table: one per task, then the empty prompt
    texts = (*(task.prompt for task in model.settings.tasks), "")
    return ModelDescription(
        unet_config=model.unet_config,
        vae_config=model.vae_config,
        scheduler=make_ddim_config(model.settings),
        omfa=model.settings.to_json(),
        prompts=PromptTable(texts, model.prompts["context"], model.prompts["pooled"]),
    )


def save_model_folder(folder: AnyPath, model: Model) -> None:
    """Write everything except the UNet's parameters, atomically."""
    with atomic_dir(folder, CONTENTS) as temporary:
        write_description(temporary, describe_model(model))
        path = temporary / "vae" / f"{STEM}.safetensors"
        write_tensors(path, tensor_names.to_torch(model.vae_params), "fp32", {"format": "pt"})


def write_tasks(folder: AnyPath, model: Model) -> None:
    """Update the tasks and prompts of a model folder, if they differ.

    The prompt table keeps all earlier prompts and is written first, so that the two files match at
    every moment, also after a kill between the two writes.
    """
    before = read_description(folder)
    if before.omfa is not None and DiffusionSettings.from_json(before.omfa) == model.settings:
        return
    now = describe_model(model)
    assert now.prompts is not None and now.omfa is not None
    table = now.prompts if before.prompts is None else merge_tables(now.prompts, before.prompts)
    # prompts first: tasks without their prompts could not be loaded
    with atomic_write(folder / "prompts.safetensors") as temporary:
        save_prompts(temporary, table)
    with atomic_write(folder / "omfa.json") as temporary:
        write_json(temporary, now.omfa)
    log.info("%s: updated the tasks to those trained from this step on", folder)


def load_vae(folder: AnyPath, config: VAEConfig) -> Params:
    """Return the VAE's parameters from a model folder of either format."""
    if is_imported(folder):
        return load_params(folder, ["vae"])["vae"]
    vae = open_diffusers_vae(config, to_path(folder) / "vae")
    for note in describe_tensors(vae, "VAE", allow_fp8=False):
        log.info("%s: %s", folder, note)
    return tensor_names.from_torch({"vae": vae})["vae"]


def load_model_folder(folder: AnyPath) -> Model:
    """Return the model in a run's model folder, without UNet parameters."""
    description = read_description(folder)
    return make_model(description, None, load_vae(folder, description.vae_config), str(folder))


def make_model(
    description: ModelDescription, unet_params: Params | None, vae_params: Params, where: str
) -> Model:
    """Return the model of a description that has omfa.json and prompts; OmfaError otherwise."""
    settings, table = require_omfa(description, where)
    rows = table.select_rows([task.prompt for task in settings.tasks])
    prompts = {name: np.asarray(value, np.float32) for name, value in rows.items()}
    return Model(
        settings, description.unet_config, description.vae_config, unet_params, vae_params, prompts
    )


def require_omfa(
    description: ModelDescription, where: str
) -> tuple[DiffusionSettings, PromptTable]:
    """Return the settings and prompts of a description; OmfaError if either is missing."""
    omfa, prompts = description.omfa, description.prompts
    missing = [] if omfa is not None else ["omfa.json"]
    missing += [] if prompts is not None else ["prompts.safetensors"]
    if omfa is None or prompts is None:
        raise OmfaError(
            f"{where} has no {' and no '.join(missing)}: it is not a model of omfa_jax; train from"
            " it with --config.model.init, or give a folder written by convert_weights.py export"
        )
    return DiffusionSettings.from_json(omfa), prompts
