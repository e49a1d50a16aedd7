"""Influence: how much better the picture is with the right condition than with a wrong one.

A model that ignores a condition scores 0 dB here, however good its pictures look. `influence` is of
a batch in memory; `gain` of any values per image, such as those of a split's saved pictures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.aggregate import RESAMPLES, bootstrap
from omfa_jax.evals.psnr import mean_psnr

Batch = dict[str, Float[np.ndarray, "b h w 3"]]
# whose conditions are exchanged for another example's, by what the condition is called: a task's
# rows. The other person comes with face and pose, which are in the photo.
CONDITIONS = {
    "try_on": {"garment": ("garment",), "face": ("face",), "pose": ("pose",)},
    "try_off": {"person": ("person", "face", "pose"), "face": ("face",), "pose": ("pose",)},
}
Generate = Callable[[Batch], UInt8[np.ndarray, "b h w 3"]]


@dataclass(frozen=True)
class Influence:
    """Mean PSNR in dB with the right condition, with another example's, and the difference."""

    right_db: float
    wrong_db: float

    @property
    def gain_db(self) -> float:
        """What the condition is worth."""
        return self.right_db - self.wrong_db


def derangement(count: int, seed: int) -> np.ndarray:
    """Return a permutation that moves every index: whose condition each example gets instead."""
    if count < 2:
        raise OmfaError(f"influence needs at least 2 examples, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    swapped = np.empty(count, int)
    swapped[order] = np.roll(order, 1)
    return swapped


def influence(
    generate: Generate,
    batch: Batch,
    conditions: Sequence[str],
    truth: Iterable[UInt8[np.ndarray, "h w 3"]],
    regions: Iterable[Bool[np.ndarray, "h w"]] | None,
    *,
    seed: int,
    right: UInt8[np.ndarray, "b h w 3"] | None = None,
) -> tuple[Influence, UInt8[np.ndarray, "b h w 3"]]:
    """Swap `conditions` among the examples and compare both results with the truth.

    Returns the figures and the pictures made with the wrong condition. `right`, if given, are the
    pictures made with the right one (to save a run).
    """
    right = generate(batch) if right is None else right
    swap = derangement(len(right), seed)
    wrong = generate({**batch, **{name: batch[name][swap] for name in conditions}})
    figures = Influence(mean_psnr(right, truth, regions), mean_psnr(wrong, truth, regions))
    return figures, wrong


def gain(
    metric: str,
    better: str,
    right: Sequence[float],
    wrong: Sequence[float],
    *,
    seed: int,
    region: str = "whole picture",
) -> dict[str, Any]:
    """Return what a condition is worth, in units of a metric per image: the scores file's form.

    `right` and `wrong` are the values of the same examples; `better` is "higher" or "lower". `gain`
    is above 0 where the right condition is better; its interval is a bootstrap over the examples,
    each with both its values.
    """
    if len(right) != len(wrong) or len(right) < 2:
        raise OmfaError(
            f"influence needs both values of 2 examples or more, got {len(right)} and {len(wrong)}"
        )
    ours, others = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
    each = ours - others if better == "higher" else others - ours
    return {
        "metric": metric,
        "better": better,
        "region": region,
        "count": len(each),
        "right": float(ours.mean()),
        "wrong": float(others.mean()),
        "gain": float(each.mean()),
        "interval": list(bootstrap(each, seed)),
        "interval_kind": f"bootstrap 95%, {RESAMPLES} resamples",
    }
