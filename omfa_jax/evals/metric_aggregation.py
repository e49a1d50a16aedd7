"""Aggregation of per-image values: means with bootstrap intervals, and distances between sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from omfa_jax.evals.file_matching import Match
from omfa_jax.evals.metric_fns import MetricFn
from omfa_jax.evals.metric_runner import MetricRunner
from omfa_jax.evals.metrics.feature_distances import (
    compute_frechet_from_features,
    compute_kernel_distance,
)
from omfa_jax.evals.metrics.feature_extractors import cosine_similarity
from omfa_jax.evals.protocol_spec import MetricSpec
from omfa_jax.evals.scores_file import Metric

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
# LAPACK sums in an order that depends on the number of threads, so the last digits are dropped
DECIMALS = {"fid": 6, "clip_fid": 6, "kid": 10}


def make_missing_metric(choice: MetricSpec, reason: str) -> Metric:
    """Return the entry of a metric that was not computed."""
    return Metric(None, choice.better, choice.label, choice.scale, not_computed=reason)


def compute_mean(choice: MetricSpec, values: Sequence[float], seed: int) -> Metric:
    """Return the mean over images with its seeded bootstrap interval."""
    column = np.array(values, np.float64)
    # a single value has no spread to resample
    low, high = bootstrap_interval(column, seed) if len(column) > 1 else (None, None)
    interval = None if low is None or high is None else (low * choice.scale, high * choice.scale)
    return Metric(
        float(column.mean()) * choice.scale,
        choice.better,
        choice.label,
        choice.scale,
        interval=interval,
        interval_kind=f"bootstrap 95%, {RESAMPLES} resamples" if interval else None,
    )


def bootstrap_interval(column: Float[np.ndarray, " n"], seed: int) -> tuple[float, float]:
    """Return the central 95% of the means of seeded resamples with replacement."""
    random = np.random.default_rng(seed)
    means = [
        float(column[random.integers(len(column), size=len(column))].mean())
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(means, PERCENTILES)
    return float(low), float(high)


def compute_per_image(
    results: MetricRunner, computer: MetricFn, choice: MetricSpec, matches: Sequence[Match]
) -> tuple[float, ...]:
    """Return each match's unscaled value: of the pair, or the cosine similarity of two features."""
    made = []
    for match in matches:
        assert match.pred
        if computer.is_pairwise:
            made.append(float(results.get_value(computer, match.pred, match.truth)[0]))
        else:
            other = match.garment if choice.against == "garment" else match.truth
            assert other
            # the features are cached, not their cosine: FID and CLIP-I share them
            made.append(
                cosine_similarity(
                    results.get_value(computer, match.pred), results.get_value(computer, other)
                )
            )
    return tuple(made)


def compute_set_distance(
    results: MetricRunner,
    computer: MetricFn,
    choice: MetricSpec,
    preds: Sequence[Path],
    truths: Sequence[Path],
    seed: int,
) -> Metric:
    """Return FID, CLIP-FID or KID between two sets of files; each file counts once."""
    fewest = min(len(preds), len(truths))
    if fewest < 2:
        return make_missing_metric(
            choice, f"a distance between sets needs at least 2 images, got {fewest}"
        )
    one, other = (
        np.stack([results.get_value(computer, path) for path in paths]) for paths in (preds, truths)
    )

    def round_value(value: float) -> float:
        return round(value, DECIMALS[choice.kind])

    if choice.kind != "kid":
        value = round_value(compute_frechet_from_features(one, other) * choice.scale)
        return Metric(value, choice.better, choice.label, choice.scale)
    subsets, size = choice.options["subsets"], choice.options["subset_size"]
    found = compute_kernel_distance(
        one, other, subsets=subsets, subset_size=size, small=choice.options["small"], seed=seed
    )
    interval = None
    if found.interval:
        low, high = (round_value(end) * choice.scale for end in found.interval)
        interval = (low, high)
    return Metric(
        round_value(found.value) * choice.scale,
        choice.better,
        choice.label,
        choice.scale,
        interval=interval,
        interval_kind=f"central 95% of {subsets} seeded subsets" if interval else None,
    )
