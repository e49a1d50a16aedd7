"""`omfa eval --checkpoint`: sample a test split from a checkpoint, then score it."""

import argparse
import logging
from typing import Any

from omfa_jax.cli.eval import format_scores
from omfa_jax.cli.eval_checkpoint_flags import DTYPES, TASK_SETTINGS, add_arguments
from omfa_jax.cli.output_lock import join_and_lock
from omfa_jax.cli.sampler_flags import make_sampler_settings
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.evals.scores_file import Scores

# the command line calls `add_arguments` and `run` of this module
__all__ = ["add_arguments", "run"]
HELP = "sample a test split from a checkpoint and score it, or measure the held-out loss"
log = logging.getLogger(__name__)

LOSS_FILE = "loss.json"
# decoding threads, and batches kept ready: an evaluation reads each record once
EVAL_THREADS, EVAL_PREFETCH = 4, 8

# it may be one of several processes, which exit together
JOINS = True


def run(options: argparse.Namespace) -> None:
    """Compute the loss, or sample and score, according to the flags."""
    validate_flags(options)
    out = require_any_writable_dir(options.out, "--out")

    from omfa_jax.model_loading import load_model
    from omfa_jax.parallel.xla_flags import reserve_gpu_memory

    # before JAX takes its share of the GPU's memory, which it does on first use
    if options.device.startswith("cuda"):
        reserve_gpu_memory("the metrics' networks (--device cuda)")
    with join_and_lock(options, out):
        model = load_model(options.checkpoint, ema=not options.no_ema)
        if model.unet_params is None:
            raise OmfaError(f"{options.checkpoint} has no UNet weights; give a trained model")
        if options.loss:
            measure_loss(model, options, out)
        if options.task in TASK_SETTINGS:
            write_scores(model, options, out)
        elif options.task:
            write_row_scores(model, options, out)


def validate_flags(options: argparse.Namespace) -> None:
    """Raise an OmfaError for inconsistent flags; fill in the default setting."""
    if options.dtype not in DTYPES:
        raise make_unknown_name_error("dtype (--dtype)", options.dtype, DTYPES)
    if options.task is None:
        if not options.loss or options.setting:
            raise OmfaError("omfa eval --checkpoint needs --task, --loss or both")
        return
    own = TASK_SETTINGS.get(options.task)
    if own is None:
        # another task of the model, or a misspelt one: only the checkpoint can tell
        for flag in ("setting", "influence", "regions", "truth"):
            if getattr(options, flag) is not None:
                raise OmfaError(
                    f"--{flag} is only for --task {' and '.join(TASK_SETTINGS)}, got --task"
                    f" {options.task}"
                )
        return
    options.setting = options.setting or own[0]
    if options.setting not in own:
        raise OmfaError(
            f"--task {options.task} has the settings {', '.join(own)},"
            f" got --setting {options.setting}"
        )
    if options.influence and options.setting == "unpaired":
        raise OmfaError("--influence needs a ground truth, which --setting unpaired does not have")
    if options.truth and options.task != "try_on":
        raise OmfaError("--truth has answers for --task try_on only; remove it")
    # the synthetic raw folder has the parse maps too
    options.regions = options.regions or options.truth


def make_pipeline_settings(model: Any, data: str) -> Any:
    """Return the settings that read a records folder at the model's slot sizes."""
    from omfa_jax.data.pipeline.settings import PipelineSettings
    from omfa_jax.data.records.record_schema import read_manifest
    from omfa_jax.weights.vae_fingerprint import fingerprint_vae

    latents = read_manifest(data)["kind"] == "latents"
    return PipelineSettings(
        data,
        dict(zip(COMPONENTS, model.settings.slots_px, strict=True)),
        vae_id=fingerprint_vae(model.vae_config, model.vae_params) if latents else "",
        pose_style=model.settings.pose_style,
        threads=EVAL_THREADS,
        prefetch_batches=EVAL_PREFETCH,
    )


def make_request(options: argparse.Namespace) -> Any:
    """Return what to sample and how to score it."""
    from omfa_jax.evals.split_evaluation import SplitRequest

    return SplitRequest(
        split=options.split,
        setting=options.setting or "",
        sampler=make_sampler_settings(options),
        seed=options.seed,
        dtype=options.dtype,
        method=options.method or to_path(options.checkpoint).resolve().name,
        protocol=options.protocol,
        workers=options.workers,
        limit=options.limit,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        influence=options.influence or "",
        influence_metric=options.influence_metric,
        truth=options.truth,
        regions=options.regions,
        metric_weights=options.metric_weights,
        skip_checksum=options.skip_checksum,
        device=options.device,
    )


def write_scores(model: Any, options: argparse.Namespace, out: AnyPath) -> None:
    """Sample and score the split; print the scores (process 0)."""
    from omfa_jax.evals.split_evaluation import SCORES_FILE, evaluate_split

    pipeline = make_pipeline_settings(model, options.data)
    scores = evaluate_split(model, make_request(options), pipeline, out)
    if scores is not None:
        print(format_scores(scores))
        print_blocks(scores)
        log.info("scores: %s", out / SCORES_FILE)


def write_row_scores(model: Any, options: argparse.Namespace, out: AnyPath) -> None:
    """Sample another task of the model and score each generated component; print (process 0)."""
    from omfa_jax.evals.row_evaluation import evaluate_row, find_row

    row = find_row(model.settings.tasks, options.task, tuple(TASK_SETTINGS))
    pipeline = make_pipeline_settings(model, options.data)
    found = evaluate_row(model, row, make_request(options), pipeline, out)
    for component, scores in (found or {}).items():
        print(f"{row.name}, {component}: {format_scores(scores)}")
        log.info("scores: %s", out / component)


def print_blocks(scores: Scores) -> None:
    """Print the influence of the conditions and the scores against exact truth."""
    for name, row in (scores.influence or {}).items():
        low, high = row["interval"]
        print(
            f"  {name}: {row['metric']} {row['right']:.4f}, with another {row['wrong']:.4f}:"
            f" gain {row['gain']:.4f} [{low:.4f}, {high:.4f}] ({row['region']})"
        )
    for name, row in (scores.truth or {}).items():
        figures = ", ".join(f"{metric} {value:.4f}" for metric, value in row.items())
        print(f"  exact truth, {name}: {figures}")


def measure_loss(model: Any, options: argparse.Namespace, out: AnyPath) -> None:
    """Measure the held-out loss of --data, print it, and write OUT/loss.json (process 0)."""
    import jax

    from omfa_jax.evals.heldout_loss import HeldOutSettings
    from omfa_jax.evals.heldout_run import measure_model_loss, write_loss
    from omfa_jax.parallel.mesh import MeshSettings, make_mesh

    measure = HeldOutSettings(options.loss_examples, options.loss_timesteps, options.seed)
    pipeline = make_pipeline_settings(model, options.data)
    loss = measure_model_loss(
        model, pipeline, options.split, measure, make_mesh(MeshSettings()), dtype=options.dtype
    )
    if jax.process_index():
        return
    facts = {
        "checkpoint": str(options.checkpoint),
        "data": str(options.data),
        "split": options.split,
        "seed": options.seed,
        "prediction": model.settings.prediction,
    }
    write_loss(out / LOSS_FILE, loss, facts)
    for name, value in loss.to_scalars().items():
        print(f"  {name:16} {value:.6f}")
    log.info("loss: %s", out / LOSS_FILE)
