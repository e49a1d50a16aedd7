"""`omfa train`: from a config file to a run."""

import argparse
import contextlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from omfa_jax.cli import config as border
from omfa_jax.cli.flags import path_text
from omfa_jax.cli.resume import require_same_run
from omfa_jax.cli.sharding import network_mesh, replicated_mesh, sharding_table
from omfa_jax.cli.startup import (
    starting_bundle,
    vae_fingerprint,
    vae_start,
    write_model_folder,
)
from omfa_jax.cli.task_table import shares_in_words
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import LOCK, atomic_write, exclusive_lock, require_writable_dir
from omfa_jax.core.retry import retried
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline import make_dataset
from omfa_jax.models import VAEConfig, encode, posterior
from omfa_jax.models.api import decode
from omfa_jax.models.reference_unet import network_params
from omfa_jax.parallel import distributed
from omfa_jax.parallel.feed import data_shard
from omfa_jax.parallel.hardware import chip_of
from omfa_jax.parallel.rules import REPLICATED_RULES, UNET_RULES
from omfa_jax.scaling.flops import network_components, vae_components
from omfa_jax.train import mup
from omfa_jax.train.cost import Cost
from omfa_jax.train.loop import Run, train
from omfa_jax.train.network import network_shapes, trained_network
from omfa_jax.train.objective import partial_diffusion
from omfa_jax.train.profile import ProfileSteps
from omfa_jax.train.state import TrainState
from omfa_jax.train.vae_objective import autoencoder, trainable_start
from omfa_jax.weights.bundle import Bundle

log = logging.getLogger(__name__)

# it may be one process of several, which end together
JOINS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa train`."""
    parser.add_argument(
        "--config", required=True, type=path_text, metavar="FILE", help="a file of configs/"
    )
    parser.add_argument(
        "--workdir", required=True, type=path_text, metavar="DIR", help="checkpoints and logs"
    )
    parser.add_argument(
        "--explain-sharding", action="store_true", help="print where each weight lies, and stop"
    )
    parser.add_argument(
        "--profile", default="", metavar="STEPS", help="write a trace of these steps: 20 or 20-25"
    )
    parser.epilog = "any config value: --config.train.steps=1000"


def run(options: argparse.Namespace) -> None:
    """Train as the flags say."""
    config = retried(
        str(options.config), lambda: border.load_config(options.config, options.overrides)
    )
    if options.explain_sharding:
        print(sharding_table(config))
        return
    profile = ProfileSteps.parse(options.profile) if options.profile else None
    workdir = require_writable_dir(options.workdir, "--workdir")
    distributed.initialize(workdir)
    distributed.require_same(
        {
            "the code's revision": distributed.revision(),
            "the config": json.dumps(config.to_dict(), sort_keys=True, default=str),
            "--workdir": str(workdir.absolute()),
        }
    )
    refusal = f"another run is using {workdir}: stop it, or give another folder to --workdir"
    lock = exclusive_lock(workdir / LOCK, refusal)
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
        require_same_run(config, workdir)
        if config.objective == "autoencoder":
            train_autoencoder(config, workdir)
        else:
            train_diffusion(config, workdir, profile=profile)


def train_diffusion(
    config: border.Config, workdir: Path, *, profile: ProfileSteps | None = None
) -> TrainState:
    """Train the UNet by partial diffusion."""
    settings = border.train_settings(config)
    bundle = starting_bundle(config, workdir)
    mesh = network_mesh(config, bundle)
    shard, shards = data_shard(mesh)
    vae_id = vae_fingerprint(bundle.vae_config, bundle.vae_params)
    prompts = b"".join(bundle.prompts[name].tobytes() for name in sorted(bundle.prompts))
    distributed.require_same({"the VAE": vae_id, "the prompts' embeddings": prompts.hex()})
    batches = make_dataset(
        border.pipeline_settings(config, vae_id=vae_id),
        split=config.data.split,
        batch_size=settings.batch_size,
        seed=settings.seed,
        tasks=bundle.settings.tasks,
        shard=shard,
        shards=shards,
    )
    log.info("training examples by task: %s", shares_in_words(bundle.settings.tasks))
    write_model_folder(bundle, workdir)
    apply = trained_network(bundle.settings, bundle.unet_config, settings, mesh)

    def encode_images(params, images):
        return encode(bundle.vae_config, params, images, dtype=settings.compute_dtype)

    def random_unet():
        key = jax.random.key(settings.seed)
        params = network_params(bundle.unet_config, key, has_reference=bundle.settings.reference)
        base = settings.optimizer.mup_base
        return mup.initial(params, base) if base else params

    # stored latents make the VAE idle in the step; it then need not lie on the devices
    vae_params = {} if border.trains_on_latents(config) else bundle.vae_params
    save_config(config, workdir)
    return train(
        Run(
            workdir=workdir,
            settings=settings,
            objective=partial_diffusion(bundle.settings, settings.loss, apply, encode_images),
            start=random_unet if bundle.unet_params is None else bundle.unet_params,
            frozen={"vae": vae_params, "prompts": bundle.prompts},
            rules=UNET_RULES,
            mesh=mesh,
            batches=batches,
            config=config.to_dict(),
            pictures=sample_pictures(config, bundle),
            evaluate=evaluation(config, bundle, mesh, vae_id),
            cost=cost_of(
                bundle,
                settings.batch_size,
                encodes=not border.trains_on_latents(config),
                devices=list(mesh.devices.flat),
            ),
            profile=profile,
        )
    )


def train_autoencoder(config: border.Config, workdir: Path) -> TrainState:
    """Train a VAE or a decoder, then write the VAE in diffusers form to workdir/model."""
    settings = border.train_settings(config)
    vae_config, kept, start = vae_start(config)
    mesh = replicated_mesh(config, jax.eval_shape(start) if callable(start) else start)
    pipeline = border.pipeline_settings(config)
    described = border.diffusion_settings(config, vae_config)
    border.check_crop(config, described)
    tasks = described.tasks
    shard, shards = data_shard(mesh)
    batches = make_dataset(
        pipeline,
        split=config.data.split,
        batch_size=settings.batch_size,
        seed=settings.seed,
        tasks=tasks,
        shard=shard,
        shards=shards,
    )
    dtype = settings.compute_dtype
    save_config(config, workdir)
    state = train(
        Run(
            workdir=workdir,
            settings=settings,
            objective=autoencoder(
                lambda params, images: posterior(vae_config, params, images, dtype=dtype),
                lambda params, z: decode(
                    vae_config, params, z * vae_config.scaling_factor, dtype=dtype
                ),
                crop_px=config.autoencoder.crop_px,
                latent_noise=config.autoencoder.latent_noise / vae_config.scaling_factor,
            ),
            start=(lambda: trainable_start(start())) if callable(start) else start,
            frozen=kept,
            rules=REPLICATED_RULES,
            mesh=mesh,
            batches=batches,
            config=config.to_dict(),
            cost=autoencoder_cost(
                vae_config,
                config.autoencoder.crop_px,
                settings.batch_size,
                whole=not kept,
                devices=list(mesh.devices.flat),
            ),
        )
    )
    from omfa_jax.cli.autoencoder import publish_vae

    publish_vae(config, vae_config, kept, state, pipeline, workdir)
    return state


def cost_of(bundle: Bundle, batch_size: int, *, encodes: bool, devices: Sequence[Any] = ()) -> Cost:
    """Return the network's size and the FLOPs of a training example on the bundle's canvas.

    `encodes` says that the step encodes the example's pictures: three components and a pose map.
    Rates are of the `devices` that run the step; none are known where only the sizes are asked for.
    """
    tokens = bundle.prompts["context"].shape[1]
    run = network_components(bundle.settings, bundle.unet_config, text_tokens=tokens)
    leaves = jax.tree.leaves(network_shapes(bundle.settings, bundle.unet_config))
    sizes = dict(zip(COMPONENTS, bundle.settings.slots_px, strict=True))
    pictures = [*sizes.values(), sizes["person"]] if encodes else []
    frozen = sum(vae_components(bundle.vae_config, *size)[0].total.forward for size in pictures)
    params = sum(math.prod(leaf.shape) for leaf in leaves)
    return _cost(params, sum(part.total.step for part in run), batch_size, devices, frozen)


def autoencoder_cost(
    vae_config: VAEConfig,
    crop_px: int,
    batch_size: int,
    *,
    whole: bool,
    devices: Sequence[Any] = (),
) -> Cost:
    """Return the same for a VAE on crops of the four pictures; not `whole` trains its decoder."""
    encoder, decoder = (part.total for part in vae_components(vae_config, crop_px, crop_px))
    pictures = len(COMPONENTS) + 1
    if whole:
        params, step = encoder.params + decoder.params, encoder.step + decoder.step
        return _cost(params, pictures * step, batch_size, devices)
    frozen = pictures * encoder.forward
    return _cost(decoder.params, pictures * decoder.step, batch_size, devices, frozen)


def _cost(
    params: int, flops: float, batch_size: int, devices: Sequence[Any], frozen: float = 0.0
) -> Cost:
    chip = chip_of(devices[0].device_kind) if devices else None
    return Cost(
        params=params,
        flops_per_example=float(flops),
        batch_size=batch_size,
        devices=len(devices) or 1,
        peak_flops=chip.bf16_flops if chip else None,
        frozen_flops_per_example=float(frozen),
    )


def save_config(config: border.Config, workdir: Path) -> None:
    """Write the resolved config beside the logs, for people; a disk without room is only said."""
    if jax.process_index() == 0:
        try:
            with atomic_write(workdir / "config.json") as temporary:
                temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        except OmfaError as error:
            log.warning("%s; the run goes on: checkpoints hold the config too", error)


def sample_pictures(config: border.Config, bundle):
    """Return the loop's picture function, or None when no pictures are asked for."""
    if not config.log.samples_every_steps:
        return None
    from omfa_jax.cli.pictures import training_pictures

    return training_pictures(config, bundle)


def evaluation(config: border.Config, bundle: Bundle, mesh: Mesh, vae_id: str):
    """Return the loop's evaluation, or None when none is asked for."""
    if not config.eval.every_steps:
        return None
    from omfa_jax.cli.evaluation import training_evaluation

    return training_evaluation(config, bundle, mesh, vae_id)
