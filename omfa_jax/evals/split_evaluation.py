"""Evaluate a model on one setting of a split: all processes sample, the first one scores."""

import dataclasses
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jax

from omfa_jax import __version__
from omfa_jax.core.errors import make_unknown_name_error
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.data.records.record_schema import MANIFEST, list_sizes, read_manifest
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.evals.exact_truth import KINDS, ConditionRegions, ExactTruth
from omfa_jax.evals.folder_scoring import ScoreRequest, score_folder
from omfa_jax.evals.influence import CONDITIONS
from omfa_jax.evals.prediction_sampling import SamplingJob, claim_folder, sample_to_folder
from omfa_jax.evals.remote_inputs import copy_inputs
from omfa_jax.evals.scores_file import Scores, write_scores
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import PREDICTIONS, SplitRun, compute_influence, compute_truth_scores
from omfa_jax.parallel.distributed import run_on_all_processes, run_on_main_process
from omfa_jax.sampling.grouped_sampling import ROWS_PER_GROUP, get_busy_devices
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.weights_digest import compute_weights_digest

log = logging.getLogger(__name__)

ALL = "all"
SCORES_FILE = "scores.json"


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """What to sample and how to score it; the fields are the flags of `omfa eval --checkpoint`.

    `influence` names conditions, separated by commas, "all", or "" for none. `truth` and `regions`
    are raw folders. `batch_size` 0 lets the sampler choose.
    """

    split: str
    setting: str
    sampler: SamplerSettings
    seed: int
    dtype: str
    method: str
    protocol: str
    workers: int
    limit: int | None = None
    batch_size: int = 0
    overwrite: bool = False
    influence: str = ""
    influence_metric: str = "psnr"
    truth: Path | None = None
    regions: Path | None = None
    metric_weights: Path | None = None
    skip_checksum: bool = False
    device: str = "cpu"


def evaluate_split(
    model: Model, request: SplitRequest, pipeline: PipelineSettings, out: AnyPath
) -> Scores | None:
    """Sample one setting of the split, score it and write OUT/scores.json.

    Return the scores on process 0, None on the others.
    """
    split = EvalSplit(
        pipeline,
        request.split,
        request.setting,
        limit=request.limit,
        seed=request.seed,
    )
    # names and raw folders are checked before sampling, which takes hours
    conditions = choose_conditions(request.influence, CONDITIONS[split.task])
    truth = ExactTruth(request.truth, request.split) if request.truth else None
    regions = ConditionRegions(request.regions, request.split) if request.regions else None
    facts = {
        "checkpoint": compute_weights_digest(model),
        "data": compute_records_digest(pipeline.records),
        "split": request.split,
        "setting": request.setting,
        "limit": request.limit,
        "seed": request.seed,
        "sampler": dataclasses.asdict(request.sampler),
        "dtype": request.dtype,
        "rows": ROWS_PER_GROUP,
        # images of another version of the sampler must not be mixed with this run's
        "omfa_jax": __version__,
    }

    def prepare() -> None:
        claim_folder(out, facts, overwrite=request.overwrite)
        split.write_ground_truth(out)

    run_on_main_process(prepare)
    sampler = Sampler(
        model, request.sampler, dtype=request.dtype, devices=get_busy_devices(len(split))
    )
    sample = make_collective_sampler(sampler, seed=request.seed, batch_size=request.batch_size)
    sampled = SplitRun(split, out, request.seed, sample)
    predictions = sampled.sample_predictions()
    for condition in conditions:
        sampled.sample_swapped(condition)
    answers = {}
    if truth:
        for kind in KINDS:
            same = kind == request.setting
            # --setting unpaired has sampled these images already
            answers[kind] = predictions if same else sample_exact_answers(sampled, truth, kind)
    # sampling was collective, scoring is not: one process reads the shared folder
    if jax.process_index():
        return None

    file = out / SCORES_FILE
    scores = score_predictions(request, out, predictions, file)
    influence = None
    if conditions:
        metric = request.influence_metric
        per_image = None
        # PSNR and SSIM are computed here, and by region; others come from the protocol's scores
        if metric not in ("psnr", "ssim"):
            per_image = functools.partial(compute_metric_values, request, out, split.names, metric)
        influence = compute_influence(
            sampled, conditions, metric=metric, regions=regions, per_image=per_image
        )
    exact = compute_truth_scores(sampled, truth, answers) if truth else None
    # blocks of an earlier run on the same images stay
    scores = dataclasses.replace(
        scores, influence=influence or scores.influence, truth=exact or scores.truth
    )
    write_scores(file, scores)
    return scores


def sample_exact_answers(sampled: SplitRun, truth: ExactTruth, kind: str) -> AnyPath:
    """Sample the images whose exact answer the synthetic world has."""
    if kind == "unpaired":
        # the same people with the other garments
        other = sampled.split.with_setting("unpaired")
        sampled = dataclasses.replace(sampled, split=other)
    return sampled.sample_truth_cases(truth, kind)


def make_collective_sampler(
    sampler: Sampler, *, seed: int, batch_size: int
) -> Callable[[SamplingJob], int]:
    """Return a function that samples work on all processes: each does its share, then waits."""

    def sample(work: SamplingJob) -> int:
        return run_on_all_processes(
            lambda: sample_to_folder(
                sampler,
                work,
                seed=seed,
                batch_size=batch_size,
                process=jax.process_index(),
                processes=jax.process_count(),
            )
        )

    return sample


def score_predictions(request: SplitRequest, out: AnyPath, pred: AnyPath, file: AnyPath) -> Scores:
    """Return the scores of a folder of predictions under the protocol, written to `file`."""
    with_garments = request.setting != "try_off"
    with copy_inputs(
        ScoreRequest(
            pred=pred,
            gt=out / "gt",
            out=file,
            protocol=request.protocol,
            setting=request.setting,
            garments=out / "garments" if with_garments else None,
            pairs=out / "pairs.txt",
            method=request.method,
            metric_weights=request.metric_weights,
            skip_checksum=request.skip_checksum,
            seed=request.seed,
            device=request.device,
            workers=request.workers,
        )
    ) as local:
        return score_folder(local)


def compute_metric_values(
    request: SplitRequest, out: AnyPath, names: Sequence[str], metric: str, folder: AnyPath
) -> tuple[list[float], str]:
    """Return (the metric of each image of a folder, in the order of `names`; which is better)."""
    # the predictions are scored already: reusing their file computes nothing twice
    file = SCORES_FILE if folder.name == PREDICTIONS else f"{folder.name}.json"
    scores = score_predictions(request, out, folder, out / file)
    if metric not in scores.per_image.values:
        raise make_unknown_name_error(
            "metric per image (--influence-metric)", metric, scores.per_image.values
        )
    column = cast(Sequence[float], scores.per_image.values[metric])
    found = dict(zip(scores.per_image.names, column, strict=True))
    return [float(found[name]) for name in names], scores.metrics[metric].better


def compute_records_digest(records_dir: str | os.PathLike) -> str:
    """Return a digest of a records folder's manifest and of its files' sizes."""
    folder = to_path(records_dir)
    # sizes instead of contents: hashing hundreds of gigabytes would take longer than sampling
    sizes = list_sizes(folder / read_manifest(folder)["builder"])
    files = sorted((name, size) for name, size in sizes.items() if ".array_record" in name)
    text = (folder / MANIFEST).read_text()
    return hashlib.sha256(f"{text}{files}".encode()).hexdigest()


def choose_conditions(asked: str, known: Sequence[str]) -> list[str]:
    """Return the conditions that `asked` names: none, all of the task's, or a list of them."""
    if not asked:
        return []
    if asked == ALL:
        return list(known)
    names = asked.split(",")
    for name in names:
        if name not in known:
            raise make_unknown_name_error("condition (--influence)", name, known)
    return names
