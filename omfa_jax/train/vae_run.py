"""After an autoencoder run: measure the latents' scale and write the VAE in diffusers form."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np

from omfa_jax.cli import config as border
from omfa_jax.cli.startup import preset_unet, prompt_rows
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline import PipelineSettings, eval_batches
from omfa_jax.models import VAEConfig, posterior
from omfa_jax.train.checkpoint import MODEL_FOLDER
from omfa_jax.train.state import TrainState
from omfa_jax.weights.bundle import Bundle, Params
from omfa_jax.weights.frozen import save_frozen

log = logging.getLogger(__name__)

SCALE_RECORDS = 128


def publish_vae(
    config: border.Config,
    vae_config: VAEConfig,
    kept: Params,
    state: TrainState,
    pipeline: PipelineSettings,
    workdir: Path,
) -> None:
    """Write workdir/model: the EMA VAE whose scaled latents have standard deviation 1.

    `kept` are the parts that were not trained; with an encoder among them its scale stays too. The
    scaling factor is 1 over the standard deviation of the posterior means (arXiv 2112.10752,
    appendix G), here over garments, people and faces of the training split.
    """
    params = jax.device_get(state.params if state.ema is None else state.ema)
    params = {**kept, **params}
    factor = vae_config.scaling_factor
    if not kept:
        factor = measured_scale(vae_config, params, pipeline, config.data.split)
    scaled = dataclasses.replace(vae_config, scaling_factor=factor)
    settings = border.diffusion_settings(config, scaled)
    unet_config = preset_unet(config, settings)
    rows = prompt_rows(None, settings, unet_config)
    save_frozen(workdir / MODEL_FOLDER, Bundle(settings, unet_config, scaled, None, params, rows))
    log.info("wrote %s (scaling factor %.5f)", workdir / MODEL_FOLDER, factor)


def measured_scale(
    vae_config: VAEConfig, params: Params, pipeline: PipelineSettings, split: str
) -> float:
    """Return 1 over the standard deviation of the first records' posterior means."""
    encode = jax.jit(lambda p, images: posterior(vae_config, p, images)[0])
    latents = [
        np.asarray(encode(params, batch[name])).ravel()
        for batch in eval_batches(pipeline, split=split, batch_size=16, limit=SCALE_RECORDS)
        for name in COMPONENTS
    ]
    return round(float(1.0 / np.concatenate(latents).std()), 5)
