"""Blocks of an earlier scores file that a rerun without their flags keeps: judge, influence, truth.

They cost money or hours. They are kept if they are of the same images, and dropped with a word if
not; the judge's paid answers stay in its cache in any case.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omfa_jax.core.paths import AnyPath
from omfa_jax.evals.file_matching import Match
from omfa_jax.evals.scores_file import Category, Scores, read_scores

log = logging.getLogger(__name__)

BLOCKS = ("judge", "influence", "truth")
JUDGE = "judge"
# keys in the judge's block: digests of what the judge was asked about
PREDICTIONS, GARMENTS = "predictions_sha256", "garments_sha256"


def compute_judged_digests(
    matches: Sequence[Match], setting: str, sha: Callable[[Path], str]
) -> dict[str, str]:
    """Return digests of the names and contents of the predictions and garments that are judged.

    Without garments, which scoring may do without, there is none of them.
    """
    garments = [(row.name, row.truth if setting == "try_off" else row.garment) for row in matches]
    digests = {PREDICTIONS: _digest([(row.name, row.pred) for row in matches], sha)}
    if all(path is not None for _, path in garments):
        digests[GARMENTS] = _digest(garments, sha)
    return digests


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(rows: Sequence[tuple[str, Path | None]], sha: Callable[[Path], str]) -> str:
    digest = hashlib.sha256()
    for name, path in rows:
        digest.update(f"{name} {sha(path) if path else ''}\n".encode())
    return digest.hexdigest()


def keep_earlier_blocks(path: AnyPath, scores: Scores, digests: Mapping[str, str]) -> Scores:
    """Return the scores with those blocks of the file at `path` that they do not have themselves.

    `digests`: those of the scored images. Nothing is kept of a file of other images.
    """
    if not path.is_file():
        return scores
    earlier = read_scores(path)
    names = [
        name
        for name in BLOCKS
        if getattr(earlier, name) is not None and getattr(scores, name) is None
    ]
    kept = [name for name in names if _is_of_same_images(name, earlier, scores, digests)]
    if dropped := [name for name in names if name not in kept]:
        log.warning(
            "%s: dropped the %s of an earlier run on other images; give its flags again",
            path,
            " and ".join(dropped),
        )
    if not kept:
        return scores
    log.info("%s: kept the %s of an earlier run on the same images", path, " and ".join(kept))
    if JUDGE in kept:
        scores = _add_judge_values(scores, earlier)
    return dataclasses.replace(scores, **{name: getattr(earlier, name) for name in kept})


def _is_of_same_images(
    block: str, earlier: Scores, scores: Scores, digests: Mapping[str, str]
) -> bool:
    if earlier.per_image.names != scores.per_image.names:
        return False
    judged = earlier.judge or {}
    if block == JUDGE and PREDICTIONS in judged:
        return all(judged.get(name, found) == found for name, found in digests.items())
    # without a digest: equal values of every image, to the last digit
    ours, theirs = scores.per_image.values, earlier.per_image.values
    shared = [name for name in ours if name in theirs and name != JUDGE]
    same_truth = earlier.folders.gt_sha256 == scores.folders.gt_sha256
    return same_truth and all(ours[name] == theirs[name] for name in shared)


def _add_judge_values(scores: Scores, earlier: Scores) -> Scores:
    """Return the scores with the judge's metric, values of the images and category means."""

    def add(ours: dict, theirs: dict) -> dict:
        return {**ours, JUDGE: theirs[JUDGE]} if JUDGE in theirs else ours

    categories = {
        name: Category(row.count, add(row.metrics, earlier.categories[name].metrics))
        if name in earlier.categories
        else row
        for name, row in scores.categories.items()
    }
    rows = scores.per_image
    return dataclasses.replace(
        scores,
        metrics=add(scores.metrics, earlier.metrics),
        categories=categories,
        per_image=dataclasses.replace(rows, values=add(rows.values, earlier.per_image.values)),
    )
