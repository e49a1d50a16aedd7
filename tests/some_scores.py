"""Scores files of made-up methods, with pictures that they could be of."""

import dataclasses
from pathlib import Path

import numpy as np

from omfa_jax.core.images import write_image
from omfa_jax.evals.scores_file import (
    Category,
    Counts,
    Folders,
    Metric,
    PerImage,
    ProtocolRecord,
    Scores,
    WeightsFile,
    write_scores,
)

SSIM = Metric(0.9, "higher", "SSIM", interval=(0.88, 0.92), interval_kind="bootstrap 95%")
LPIPS = Metric(0.05, "lower", "LPIPS", interval=(0.04, 0.06), interval_kind="bootstrap 95%")
KID = Metric(1.25, "lower", "KID", scale=1000, interval=(1, 1.5), interval_kind="over subsets")
NO_FID = Metric(None, "lower", "FID", not_computed="no <Inception> weights & no luck")


def some_scores(method: str, names=(), **changed) -> Scores:
    """Return scores of three metrics and a FID that could not be computed."""
    usual = {
        "method": method,
        "created": "2026-11-28T13:00:00Z",
        "protocol": ProtocolRecord("omfa", "paired", {"lpips_net": "alex"}),
        "versions": {"omfa_jax": "0.1.0"},
        "weights": {"alex": WeightsFile("alex.pth", "ab" * 32)},
        "seed": 0,
        "folders": Folders("nowhere/pred", "nowhere/gt"),
        "counts": Counts(max(1, len(names)), max(1, len(names))),
        "metrics": {"ssim": SSIM, "lpips": LPIPS, "kid": KID, "fid": NO_FID},
        "per_image": PerImage(tuple(names), (), {"lpips": tuple(0.1 for _ in names)}),
    }
    return Scores(**{**usual, **changed})


def with_values(scores: Scores, **values: float) -> Scores:
    """Return the scores with other values of some metrics, and no intervals of these."""
    changed = {
        name: dataclasses.replace(scores.metrics[name], value=value, interval=None)
        for name, value in values.items()
    }
    return dataclasses.replace(scores, metrics={**scores.metrics, **changed})


def with_pictures(folder: Path, method: str, lpips: list[float], shade: int) -> Scores:
    """Write grey pictures of every kind and return scores of them; a pair has a shade of its own.

    Garments are red and predictions have `shade`, so that a test can tell which is shown where.
    """
    names = [f"{index:05d}" for index in range(len(lpips))]
    for index, name in enumerate(names):
        grey = np.full((64, 48, 3), 10 * index, np.uint8)
        write_image(folder / "gt" / f"{name}.png", grey)
        write_image(folder / "cloth" / f"{name}.jpg", grey + np.array([100, 0, 0], np.uint8))
        write_image(
            folder / method / f"{name}.png", np.full((640, 480, 3), shade + index, np.uint8)
        )
    kinds = tuple("upper" if index % 2 else "dresses" for index in range(len(names)))
    mean = dataclasses.replace(LPIPS, value=float(np.mean(lpips)))
    return some_scores(
        method,
        names,
        folders=Folders(str(folder / method), str(folder / "gt"), str(folder / "cloth")),
        metrics={"lpips": mean},
        categories={kind: Category(kinds.count(kind), {"lpips": mean}) for kind in set(kinds)},
        per_image=PerImage(tuple(names), kinds, {"lpips": tuple(lpips)}),
    )


def files_of(folder: Path, *scores: Scores) -> list[str]:
    """Write the scores files and return their paths."""
    paths = [folder / f"{index}.json" for index in range(len(scores))]
    for path, one in zip(paths, scores, strict=True):
        write_scores(path, one)
    return [str(path) for path in paths]
