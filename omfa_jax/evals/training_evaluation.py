"""Evaluation during training: the held-out loss, and PSNR and SSIM of a few fixed examples.

It needs no pretrained network, and does not change the training state or its random numbers. Every
process of the job calls it, does its share, and gets the same figures.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.evals.heldout_loss import HeldOutSettings
from omfa_jax.evals.heldout_run import find_heldout_split, get_unet_shardings, make_heldout_loss
from omfa_jax.evals.prediction_sampling import SamplingJob, sample_to_folder
from omfa_jax.evals.row_evaluation import COMPONENT_SETTINGS, find_row
from omfa_jax.evals.settings import EvaluationSettings
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import get_installed_measures
from omfa_jax.parallel.global_arrays import gather_to_host
from omfa_jax.sampling.grouped_sampling import get_busy_devices, get_process_share
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.train.loop import Evaluate
from omfa_jax.train.state import TrainState
from omfa_jax.weights.omfa_model import Model


def make_training_evaluation(
    model: Model, settings: EvaluationSettings, pipeline: PipelineSettings, mesh: Mesh
) -> Evaluate:
    """Return the loop's evaluation: (state, step) -> {"eval/loss": ..., "eval/psnr/try_on": ...}.

    The held-out loss reads what the training reads, latents or images; PSNR and SSIM need image
    records, and are left out if `settings.examples` is 0.
    """
    loss = make_heldout_loss(
        model,
        pipeline,
        find_heldout_split(pipeline.records, settings.split),
        HeldOutSettings(settings.loss_examples, settings.loss_timesteps, settings.seed),
        mesh,
        get_unet_shardings(model, mesh),
        dtype=settings.compute_dtype,
        attention=settings.attention,
    )
    score_samples = make_sample_scores(model, settings) if settings.examples else None

    def evaluate(state: TrainState, step: int) -> Mapping[str, float]:
        # the EMA, since it is what is sampled and exported
        params = state.params if state.ema is None else state.ema
        row = loss(params).to_scalars()
        if score_samples is not None:
            row |= score_samples(params)
        return {f"eval/{name}": value for name, value in row.items()}

    return evaluate


def make_sample_scores(
    model: Model, settings: EvaluationSettings
) -> Callable[[Any], dict[str, float]]:
    """Return PSNR and SSIM of a few fixed sampled examples as a function of UNet parameters."""
    records, examples = settings.image_records, settings.examples
    if not records:
        raise OmfaError(
            "PSNR and SSIM during training need image records in addition to latents: give"
            " --config.data.records=DIR or --config.eval.examples=0 (the loss alone)"
        )
    slots = dict(zip(COMPONENTS, model.settings.slots_px, strict=True))
    pipeline = PipelineSettings(records, slots, threads=0)
    name = find_heldout_split(records, settings.split)
    # task -> the components that it generates and that can be scored
    splits = {
        task: {
            component: EvalSplit(pipeline, name, setting, limit=examples)
            for component, setting in COMPONENT_SETTINGS.items()
            if component in find_row(model.settings.tasks, task, flag="config.eval.tasks").noised
        }
        for task in settings.tasks
    }
    sampler = Sampler(
        # without weights of its own: each evaluation passes the current ones
        model.with_unet({}),
        settings.sampler,
        dtype=settings.compute_dtype,
        devices=get_busy_devices(examples),
        attention=settings.attention,
    )
    process, processes = jax.process_index(), jax.process_count()
    measures = get_installed_measures()

    def score(params: Any) -> dict[str, float]:
        # the sampler needs full weights on each device; training may have sharded them over fsdp
        gathered = sampler.replicate(gather_to_host(params))
        row: dict[str, float] = {}
        for task, parts in splits.items():
            with tempfile.TemporaryDirectory() as folder:
                first, *others = (
                    SamplingJob(
                        Path(folder) / component, task, component, split.names, split.get_inputs
                    )
                    for component, split in parts.items()
                )
                sample_to_folder(
                    sampler,
                    dataclasses.replace(first, other_components=tuple(others)),
                    seed=settings.seed,
                    process=process,
                    processes=processes,
                    params=gathered,
                )
                for work, split in zip((first, *others), parts.values(), strict=True):
                    # NaN marks the rows of other processes, which `merge_rows` fills in
                    values = np.full((len(split), len(measures)), np.nan)
                    for spot in get_process_share(len(split), process, processes):
                        image = read_rgb(work.get_path(spot), "sampled image")
                        truth = np.asarray(split.get_inputs(spot)[work.generated])
                        values[spot] = [m(image, truth, None) for m in measures.values()]
                    means = merge_rows(values).mean(axis=0)
                    # as in the docs: psnr/try_on, but psnr/joint/garment and psnr/joint/person
                    label = task if len(parts) == 1 else f"{task}/{work.generated}"
                    row |= {f"{m}/{label}": float(v) for m, v in zip(measures, means, strict=True)}
        return row

    return score


def merge_rows(values: np.ndarray) -> np.ndarray:
    """Return the table with each row from the process that computed it (NaN in the others')."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    # sent as bytes: jax without x64 would round float64 to float32
    gathered = np.asarray(multihost_utils.process_allgather(values.view(np.uint8)))
    return np.nanmax(np.ascontiguousarray(gathered).view(np.float64), axis=0)
