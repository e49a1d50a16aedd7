"""A setting of a split from one model: sampled by all processes, scored by the first."""

import argparse
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax

from omfa_jax import __version__
from omfa_jax.cli.eval import table
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.data.schema import MANIFEST, read_manifest
from omfa_jax.diffusion.sample import SamplerSettings
from omfa_jax.evals.examples import Split
from omfa_jax.evals.folder import Request, score_folder
from omfa_jax.evals.influence import CONDITIONS
from omfa_jax.evals.predictions import (
    ROWS,
    Work,
    busy_devices,
    claim,
    sample_to_folder,
    weights_digest,
)
from omfa_jax.evals.scores import Scores, write_scores
from omfa_jax.evals.split import PREDICTIONS, SplitRun, influence_of, truth_of
from omfa_jax.evals.truth import KINDS, Regions, Truth
from omfa_jax.parallel.distributed import any_process
from omfa_jax.sampling.generate import Sampler
from omfa_jax.weights.bundle import Bundle

log = logging.getLogger(__name__)

ALL = "all"
SCORES_FILE = "scores.json"


def evaluate(bundle: Bundle, options: argparse.Namespace, pipeline: Any, out: Path) -> None:
    """Sample one setting of the split, score it and write OUT/scores.json (process 0)."""
    settings = SamplerSettings(
        options.steps, options.guidance, options.sampler, options.guidance_rescale
    )
    split = Split(
        pipeline,
        options.split,
        options.setting,
        limit=options.limit,
        seed=options.seed,
    )
    conditions = conditions_of(options, CONDITIONS[split.task])
    truth = Truth(options.truth, options.split) if options.truth else None
    regions = Regions(options.regions, options.split) if options.regions else None
    facts = {
        "checkpoint": weights_digest(bundle),
        "data": records_digest(Path(options.data)),
        "split": options.split,
        "setting": options.setting,
        "limit": options.limit,
        "seed": options.seed,
        "sampler": dataclasses.asdict(settings),
        "dtype": options.dtype,
        "rows": ROWS,
        "omfa_jax": __version__,
    }

    def prepare() -> None:
        claim(out, facts, restart=options.restart)
        split.write_truth(out)

    on_main(prepare)
    sampler = Sampler(bundle, settings, dtype=options.dtype, devices=busy_devices(len(split)))
    sampled = SplitRun(split, out, options.seed, together(sampler, options))
    predictions = sampled.predictions()
    for condition in conditions:
        sampled.swapped(condition)
    answers = {}
    if truth:
        for kind in KINDS:
            same = kind == options.setting
            answers[kind] = predictions if same else answered(sampled, truth, kind)
    if jax.process_index():
        return

    scores = scored(options, out, predictions, out / SCORES_FILE)
    influence = None
    if conditions:
        metric = options.influence_metric
        per_image = None
        if metric not in ("psnr", "ssim"):
            per_image = functools.partial(metric_values, options, out, split.names, metric)
        influence = influence_of(
            sampled, conditions, metric=metric, regions=regions, per_image=per_image
        )
    exact = truth_of(sampled, truth, answers) if truth else None
    finish(scores, influence, exact, out / SCORES_FILE)


def answered(sampled: SplitRun, truth: Truth, kind: str) -> Path:
    """Sample the pictures whose exact answer the synthetic world has."""
    if kind == "unpaired":
        # the same people with the other garments
        other = sampled.split.under("unpaired")
        sampled = dataclasses.replace(sampled, split=other)
    return sampled.answered(truth, kind)


def together(sampler: Sampler, options: argparse.Namespace) -> Callable[[Work], int]:
    """Return how all processes sample one piece of work: each its share, then they meet."""

    def sample(work: Work) -> int:
        wrote, failed = 0, None
        try:
            wrote = sample_to_folder(
                sampler,
                work,
                seed=options.seed,
                batch_size=options.batch_size,
                process=jax.process_index(),
                processes=jax.process_count(),
            )
        except Exception as error:
            # the others would wait for this one for ever
            failed = error
        if any_process(failed is not None):
            raise failed or OmfaError("another process of this job failed; its log says why")
        return wrote

    return sample


def on_main(work: Callable[[], None]) -> None:
    """Do something on process 0; all processes go on when it is done, or fail as it does."""
    failed = None
    if jax.process_index() == 0:
        try:
            work()
        except (OmfaError, OSError) as error:
            failed = error
    if any_process(failed is not None):
        raise failed or OmfaError("process 0 of this job failed; its log says why")


def scored(options: argparse.Namespace, out: Path, pred: Path, file: Path) -> Scores:
    """Return the scores of a folder of predictions under the protocol, written to `file`."""
    with_garments = options.setting != "try_off"
    return score_folder(
        Request(
            pred=pred,
            gt=out / "gt",
            out=file,
            protocol=options.protocol,
            setting=options.setting,
            garments=out / "garments" if with_garments else None,
            pairs=out / "pairs.txt",
            method=options.method or Path(options.checkpoint).resolve().name,
            networks=options.networks,
            any_weights=options.any_weights,
            seed=options.seed,
            device=options.device,
            workers=options.workers,
        )
    )


def metric_values(
    options: argparse.Namespace, out: Path, names: Sequence[str], metric: str, folder: Path
) -> tuple[list[float], str]:
    """Return (the metric of each picture of a folder, in the order of `names`; which is better)."""
    # the predictions' own scores are there: nothing of them is computed again
    file = SCORES_FILE if folder.name == PREDICTIONS else f"{folder.name}.json"
    scores = scored(options, out, folder, out / file)
    if metric not in scores.per_image.values:
        raise unknown("metric per image (--influence-metric)", metric, scores.per_image.values)
    column = cast(Sequence[float], scores.per_image.values[metric])
    found = dict(zip(scores.per_image.names, column, strict=True))
    return [float(found[name]) for name in names], scores.metrics[metric].better


def finish(
    scores: Scores, influence: dict[str, Any] | None, truth: dict[str, Any] | None, file: Path
) -> None:
    """Add the blocks to the scores file and print all of it."""
    scores = dataclasses.replace(scores, influence=influence, truth=truth)
    write_scores(file, scores)
    print(table(scores))
    for name, row in (influence or {}).items():
        low, high = row["interval"]
        print(
            f"  {name}: {row['metric']} {row['right']:.4f}, with another {row['wrong']:.4f}:"
            f" gain {row['gain']:.4f} [{low:.4f}, {high:.4f}] ({row['region']})"
        )
    for name, row in (truth or {}).items():
        figures = ", ".join(f"{metric} {value:.4f}" for metric, value in row.items())
        print(f"  exact truth, {name}: {figures}")
    log.info("scores: %s", file)


def records_digest(folder: Path) -> str:
    """Return a digest of a records folder's manifest and of its files' sizes."""
    place = folder / read_manifest(folder)["builder"]
    files = sorted((path.name, path.stat().st_size) for path in place.glob("*.array_record*"))
    text = (folder / MANIFEST).read_text()
    return hashlib.sha256(f"{text}{files}".encode()).hexdigest()


def conditions_of(options: argparse.Namespace, known: Sequence[str]) -> list[str]:
    """Return the conditions of --influence: none, each of the task's, or those that it names."""
    if not options.influence:
        return []
    if options.influence == ALL:
        return list(known)
    asked = options.influence.split(",")
    for name in asked:
        if name not in known:
            raise unknown("condition (--influence)", name, known)
    return asked
