"""A UNet's training run by partial diffusion, put together from a model and settings."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from omfa_jax.core.paths import AnyPath
from omfa_jax.models import encode
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.parallel.sharding_rules import UNET_RULES
from omfa_jax.train import mup
from omfa_jax.train.loop import Batches, TrainRun
from omfa_jax.train.network import make_training_network
from omfa_jax.train.objective import make_diffusion_objective
from omfa_jax.train.settings import TrainSettings
from omfa_jax.weights.omfa_model import Model


def make_unet_run(
    model: Model,
    settings: TrainSettings,
    mesh: Mesh,
    batches: Batches,
    *,
    workdir: AnyPath,
    config: Mapping[str, Any],
    encodes: bool,
) -> TrainRun:
    """Return the run that trains the model's UNet, or a random one if it has none.

    `encodes`: the batches hold images, which the VAE encodes in the step. `config` is the complete
    config as nested dicts, for checkpoints and logs.
    """
    apply = make_training_network(model.settings, model.unet_config, settings, mesh)

    def encode_images(params, images):
        return encode(model.vae_config, params, images, dtype=settings.compute_dtype)

    def draw_unet():
        # called under jit with the state's shardings, so no device draws the full network
        key = jax.random.key(settings.seed)
        params = init_network_params(model.unet_config, key, has_reference=model.settings.reference)
        base = settings.optimizer.mup_base
        return mup.rescale_initial_params(params, base) if base else params

    return TrainRun(
        workdir=workdir,
        settings=settings,
        objective=make_diffusion_objective(model.settings, settings.loss, apply, encode_images),
        start=draw_unet if model.unet_params is None else model.unet_params,
        # with stored latents the step never runs the VAE, which then takes no device memory
        constants={"vae": model.vae_params if encodes else {}, "prompts": model.prompts},
        rules=UNET_RULES,
        mesh=mesh,
        batches=batches,
        config=dict(config),
    )
