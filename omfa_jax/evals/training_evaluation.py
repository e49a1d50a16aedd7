"""Evaluation during training: the held-out loss, and PSNR and SSIM of a fixed few examples.

Nothing here needs a pretrained network, and nothing touches the training state or its random
numbers. Every process of the job calls it, takes its share, and gets the same figures.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.cli import config as border
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline import eval_batches
from omfa_jax.data.schema import read_manifest
from omfa_jax.data.settings import PipelineSettings
from omfa_jax.diffusion.sample import SamplerSettings
from omfa_jax.evals.examples import MADE, Split
from omfa_jax.evals.heldout import (
    HeldOutLoss,
    HeldOutSettings,
    global_rows,
    held_out,
    held_out_batches,
)
from omfa_jax.evals.predictions import Work, busy_devices, sample_to_folder, share
from omfa_jax.evals.split import measures_here
from omfa_jax.models import encode
from omfa_jax.parallel.feed import data_shard, place, to_host
from omfa_jax.parallel.mesh import replicated
from omfa_jax.parallel.rules import UNET_RULES, param_shardings
from omfa_jax.sampling.generate import Sampler
from omfa_jax.train.loop import Evaluate
from omfa_jax.train.network import network_shapes, trained_network
from omfa_jax.train.settings import TrainSettings
from omfa_jax.train.state import TrainState
from omfa_jax.weights.bundle import Bundle

SPLITS = ("val", "test")
SETTING_OF = {"try_on": "paired", "try_off": "try_off"}


def training_evaluation(config: border.Config, bundle: Bundle, mesh: Mesh, vae_id: str) -> Evaluate:
    """Return the loop's evaluation: (state, step) -> {"eval/loss": ..., "eval/psnr/try_on": ...}.

    The held-out loss reads what the training reads, latents or pictures; PSNR and SSIM need image
    records (config.data.records), and are left out with config.eval.examples=0.
    """
    e = config.eval
    pipeline = border.pipeline_settings(config, vae_id=vae_id)
    shardings = param_shardings(
        UNET_RULES, network_shapes(bundle.settings, bundle.unet_config), mesh
    )
    measure = HeldOutSettings(e.loss_examples, e.loss_timesteps, e.seed)
    loss = held_out_loss(
        bundle,
        pipeline,
        held_out_split(pipeline.records, e.split),
        measure,
        mesh,
        shardings,
        dtype=config.train.compute_dtype,
        attention=config.train.attention,
    )
    pictures = sampled_scores(config, bundle) if e.examples else None

    def evaluate(state: TrainState, step: int) -> Mapping[str, float]:
        params = state.params if state.ema is None else state.ema
        row = loss(params).scalars()
        if pictures is not None:
            row |= pictures(params)
        return {f"eval/{name}": value for name, value in row.items()}

    return evaluate


def held_out_split(records: str, asked: str) -> str:
    """Return the split to evaluate on: the one asked for, else val, else test."""
    splits = read_manifest(records)["splits"]
    found = asked or next((name for name in SPLITS if name in splits), "")
    if found not in splits:
        raise OmfaError(
            f"{records} has no split {found or 'val or test'!r} to evaluate on (it has"
            f" {', '.join(splits)}): set config.eval.split, or config.eval.every_steps=0"
        )
    return found


def held_out_loss(
    bundle: Bundle,
    pipeline: PipelineSettings,
    split: str,
    measure: HeldOutSettings,
    mesh: Mesh,
    shardings: Any,
    *,
    dtype: str,
    attention: str = "auto",
) -> Callable[[Any], HeldOutLoss]:
    """Return the held-out loss as a function of UNet parameters that lie as `shardings` say.

    The examples are read, and encoded if they are pictures, once and now.
    """
    shard, shards = data_shard(mesh)
    compute = TrainSettings(steps=1, batch_size=1, compute_dtype=dtype, attention=attention)
    apply = trained_network(bundle.settings, bundle.unet_config, compute, mesh)
    read = eval_batches(
        pipeline,
        split=split,
        batch_size=global_rows(mesh),
        shard=shard,
        shards=shards,
        limit=measure.examples,
    )
    pictures = read_manifest(pipeline.records)["kind"] == "images"
    batches = held_out_batches(read, encoder_of(bundle) if pictures else None)
    loss = held_out(bundle.settings, measure, apply, mesh, shardings, batches)
    prompts = place(bundle.prompts, jax.tree.map(lambda _: replicated(mesh), bundle.prompts))
    return lambda params: loss(params, prompts)


def encoder_of(bundle: Bundle) -> Callable[[Any], np.ndarray]:
    """Return the VAE's encoder on this process's first device, as `omfa data latents` encodes."""
    vae = jax.device_put(bundle.vae_params, jax.local_devices()[0])
    run = jax.jit(lambda params, images: encode(bundle.vae_config, params, images))
    return lambda images: np.asarray(run(vae, images))


def sampled_scores(config: border.Config, bundle: Bundle) -> Callable[[Any], dict[str, float]]:
    """Return PSNR and SSIM of a fixed few sampled examples as a function of UNet parameters."""
    e = config.eval
    if not config.data.records:
        raise OmfaError(
            "PSNR and SSIM during training need image records beside the latents: give"
            " --config.data.records=DIR or --config.eval.examples=0 (the loss alone)"
        )
    for task in e.tasks:
        if task not in MADE:
            raise OmfaError(f"config.eval.tasks: expected {' and '.join(MADE)}, got {task!r}")
    slots = dict(zip(COMPONENTS, bundle.settings.slots_px, strict=True))
    pipeline = PipelineSettings(config.data.records, slots, threads=0)
    name = held_out_split(config.data.records, e.split)
    splits = {task: Split(pipeline, name, SETTING_OF[task], limit=e.examples) for task in e.tasks}
    sample = SamplerSettings(
        e.steps, config.sample.guidance, config.sample.sampler, config.sample.guidance_rescale
    )
    sampler = Sampler(
        bundle.with_unet({}),
        sample,
        dtype=config.train.compute_dtype,
        devices=busy_devices(e.examples),
        attention=config.train.attention,
    )
    process, processes = jax.process_index(), jax.process_count()
    measures = measures_here()

    def scores(params: Any) -> dict[str, float]:
        whole = sampler.placed(to_host(params))
        row: dict[str, float] = {}
        for task, split in splits.items():
            with tempfile.TemporaryDirectory() as folder:
                work = Work(Path(folder), task, split.made, split.names, split.given)
                sample_to_folder(
                    sampler,
                    work,
                    seed=e.seed,
                    process=process,
                    processes=processes,
                    params=whole,
                )
                values = np.full((len(split), len(measures)), np.nan)
                for spot in share(len(split), process, processes):
                    image = read_rgb(work.path(spot), "sampled picture")
                    truth = np.asarray(split.given(spot)[split.made])
                    values[spot] = [measure(image, truth, None) for measure in measures.values()]
            means = everyones(values).mean(axis=0)
            row |= {f"{m}/{task}": float(v) for m, v in zip(measures, means, strict=True)}
        return row

    return scores


def everyones(values: np.ndarray) -> np.ndarray:
    """Return the table with each row from the process that has it (the others' are NaN)."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    # as bytes: float64 would be rounded on the way
    gathered = np.asarray(multihost_utils.process_allgather(values.view(np.uint8)))
    return np.nanmax(np.ascontiguousarray(gathered).view(np.float64), axis=0)
