"""A whole model of next to no size, on tiny_training's canvas, and image records that fit it."""

from pathlib import Path

import jax
import numpy as np
from tiny_training import PLAIN_UNET, SETTINGS
from tiny_viton import write_raw

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.models import UNetConfig, VAEConfig, init_unet, init_vae
from omfa_jax.weights.diffusers_folder import save_diffusers
from omfa_jax.weights.model_folder import describe_model
from omfa_jax.weights.omfa_model import Model

SLOTS = dict(zip(COMPONENTS, SETTINGS.slots_px, strict=True))
VAE = VAEConfig(block_channels=(4, 4, 4, 8), layers_per_block=1, norm_groups=2)


def make_tiny_model(seed: int = 0, config: UNetConfig = PLAIN_UNET) -> Model:
    rng = np.random.default_rng(seed)
    prompts = {
        "context": rng.standard_normal((3, 2, 8), np.float32),
        "pooled": rng.standard_normal((3, 8), np.float32),
    }
    unet = jax.device_get(jax.jit(lambda: init_unet(config, jax.random.key(seed)))())
    vae = jax.device_get(jax.jit(lambda: init_vae(VAE, jax.random.key(seed)))())
    return Model(SETTINGS, config, VAE, unet, vae, prompts)


def save_tiny_model(folder: Path, model: Model) -> Path:
    said = describe_model(model)
    save_diffusers(
        folder,
        unet_config=model.unet_config,
        unet_params=model.unet_params or {},
        vae_config=model.vae_config,
        vae_params=model.vae_params,
        scheduler=said.scheduler,
        omfa=said.omfa,
        prompts=said.prompts,
    )
    return folder


def write_records(folder: Path, people: int) -> Path:
    """Write image records of so many test people of 64x48 px, and their raw folder beside them."""
    raw = write_raw(folder / "raw", {"train": 2, "test": people})
    build_records(raw, folder / "records")
    return folder / "records"


def pipeline(records: Path) -> PipelineSettings:
    return PipelineSettings(str(records), SLOTS, threads=0)
