"""A VAE's training run: its initial weights, the run, and the model folder that it writes."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.compile_notice import CompilationNotice
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_eval_iterator
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig, encode_posterior
from omfa_jax.models.network_api import decode
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES
from omfa_jax.train.checkpoints.checkpointer import MODEL_FOLDER
from omfa_jax.train.initial_weights import make_preset_vae, make_prompt_rows
from omfa_jax.train.loop import Batches, TrainRun
from omfa_jax.train.network import make_unet_config
from omfa_jax.train.objective import Objective
from omfa_jax.train.settings import InitialWeightsSource, TrainSettings
from omfa_jax.train.state import TrainState
from omfa_jax.train.vae_objective import make_vae_objective, rescale_initial_vae
from omfa_jax.weights.model_description import read_description
from omfa_jax.weights.model_folder import load_vae, save_model_folder
from omfa_jax.weights.omfa_model import Model, Params
from omfa_jax.weights.vae_fingerprint import ENCODER

log = logging.getLogger(__name__)

# over a million latent values, even of the smallest model
SCALE_RECORDS = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAETraining:
    """The trained part of a VAE and the constant rest.

    `start` is the trained parameters, or a function that draws them; `constants` are parameters
    that are not trained. `latent_noise` is in standard deviations of scaled latents.
    """

    vae_config: VAEConfig
    constants: Params
    start: Params | Callable[[], Params]
    crop_px: int
    latent_noise: float

    @property
    def param_shapes(self) -> Mapping[str, Any]:
        """The trained parameters, as arrays or shapes; nothing is drawn."""
        return jax.eval_shape(self.start) if callable(self.start) else self.start


def load_initial_vae(
    source: InitialWeightsSource, *, decoder_of: str, crop_px: int, latent_noise: float
) -> VAETraining:
    """Return a new VAE of the preset, or with `decoder_of` the decoder of that model folder.

    A decoder is trained alone: its encoder stays unchanged, so that stored latents and
    UNets trained on them stay valid.
    """
    if not decoder_of:
        vae_config, draw = make_preset_vae(source)
        constants, start = {}, draw
    else:
        vae_config = read_description(to_path(decoder_of)).vae_config
        params = load_vae(to_path(decoder_of), vae_config)
        start, constants = split_vae_params(params, decoder_only=True)
    return VAETraining(
        vae_config=vae_config,
        constants=constants,
        start=start,
        crop_px=crop_px,
        latent_noise=latent_noise,
    )


def split_vae_params(params: Params, *, decoder_only: bool) -> tuple[Params, Params]:
    """Return a VAE's (trained, constant) parameters; the decoder alone leaves the encoder out."""
    constants = {name: params[name] for name in ENCODER} if decoder_only else {}
    return {name: params[name] for name in params if name not in constants}, constants


def make_vae_training_objective(
    vae_config: VAEConfig, dtype: str, crop_px: int, latent_noise: float
) -> Objective:
    """Return the objective of a VAE; `latent_noise` is in standard deviations of scaled latents."""
    return make_vae_objective(
        lambda params, images: encode_posterior(vae_config, params, images, dtype=dtype),
        lambda params, z: decode(vae_config, params, z * vae_config.scaling_factor, dtype=dtype),
        crop_px=crop_px,
        # the setting is in scaled latents, the objective works on unscaled ones
        latent_noise=latent_noise / vae_config.scaling_factor,
    )


def check_crop(crop_px: int, diffusion: DiffusionSettings) -> None:
    """Raise an OmfaError unless the training crops fit every slot and the VAE's stride."""
    least = min(min(size) for size in diffusion.slots_px)
    if crop_px < 1 or crop_px % diffusion.stride or crop_px > least:
        raise OmfaError(
            f"config.autoencoder.crop_px must be a multiple of {diffusion.stride} up to {least},"
            f" the smallest side of a slot; got {crop_px}"
        )


def make_vae_run(
    training: VAETraining,
    settings: TrainSettings,
    mesh: Mesh,
    batches: Batches,
    *,
    workdir: AnyPath,
    config: Mapping[str, Any],
) -> TrainRun:
    """Return the run that trains a VAE; `config` is the complete config as nested dicts."""
    vae_config, start = training.vae_config, training.start
    return TrainRun(
        workdir=workdir,
        settings=settings,
        objective=make_vae_training_objective(
            vae_config, settings.compute_dtype, training.crop_px, training.latent_noise
        ),
        # only what is drawn: a decoder starts from trained weights, which have their scale
        start=(lambda: rescale_initial_vae(start())) if callable(start) else start,
        constants=training.constants,
        # a VAE fits on one device, so data parallelism is enough
        rules=REPLICATED_RULES,
        mesh=mesh,
        batches=batches,
        config=dict(config),
    )


def publish_vae(
    source: InitialWeightsSource,
    training: VAETraining,
    state: TrainState,
    pipeline: PipelineSettings,
    split: str,
    workdir: AnyPath,
) -> None:
    """Write workdir/model: the EMA VAE, scaled so that its latents have standard deviation 1.

    The scaling factor is 1 over the standard deviation of the posterior means (arXiv 2112.10752,
    appendix G), here over garments, people and faces of `split`. A frozen encoder keeps its own.
    """
    params = jax.device_get(state.params if state.ema is None else state.ema)
    params = {**training.constants, **params}
    factor = training.vae_config.scaling_factor
    # stored latents and UNets depend on an existing encoder's factor
    if not training.constants:
        factor = measure_scaling_factor(training.vae_config, params, pipeline, split)
    scaled = dataclasses.replace(training.vae_config, scaling_factor=factor)
    settings = source.diffusion_for(scaled)
    unet_config = make_unet_config(source.unet, settings)
    rows = make_prompt_rows(None, settings, unet_config)
    save_model_folder(
        workdir / MODEL_FOLDER, Model(settings, unet_config, scaled, None, params, rows)
    )
    log.info("wrote %s (scaling factor %.5f)", workdir / MODEL_FOLDER, factor)


def measure_scaling_factor(
    vae_config: VAEConfig, params: Params, pipeline: PipelineSettings, split: str
) -> float:
    """Return 1 over the standard deviation of the first records' posterior means."""
    # in float32 whatever the training's dtype: the factor stays with the weights
    jitted = jax.jit(lambda p, images: encode_posterior(vae_config, p, images)[0])
    notice = CompilationNotice("the VAE's encoder")

    def encode(images: Any) -> np.ndarray:
        with notice(images.shape):
            return np.asarray(jitted(params, images))

    latents = [
        encode(batch[name]).ravel()
        for batch in make_eval_iterator(pipeline, split=split, batch_size=16, limit=SCALE_RECORDS)
        for name in COMPONENTS
    ]
    # as many decimals as SDXL's 0.13025
    return round(float(1.0 / np.concatenate(latents).std()), 5)
