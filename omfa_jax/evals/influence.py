"""Influence: how much better an image is with the right condition than with a wrong one.

A model that ignores a condition scores 0 dB here, however good its images look. `measure_influence`
works on a batch in memory, `compute_gain` on any per-image values, such as those of a split's saved
images.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.metric_aggregation import RESAMPLES, bootstrap_interval
from omfa_jax.evals.psnr import mean_psnr

Batch = dict[str, Float[np.ndarray, "b h w 3"]]
# task -> condition -> the inputs that are replaced by another example's. A person is replaced
# together with face and pose, because both can be seen in the photo.
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
        """The gain of the right condition over a wrong one."""
        return self.right_db - self.wrong_db


def sample_derangement(count: int, seed: int) -> np.ndarray:
    """Return a seeded permutation without fixed points: whose condition each example gets."""
    if count < 2:
        raise OmfaError(f"influence needs at least 2 examples, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    swapped = np.empty(count, int)
    # one cycle through a random order: no index can map to itself
    swapped[order] = np.roll(order, 1)
    return swapped


def measure_influence(
    generate: Generate,
    batch: Batch,
    conditions: Sequence[str],
    truth: Iterable[UInt8[np.ndarray, "h w 3"]],
    regions: Iterable[Bool[np.ndarray, "h w"]] | None,
    *,
    seed: int,
    right: UInt8[np.ndarray, "b h w 3"] | None = None,
) -> tuple[Influence, UInt8[np.ndarray, "b h w 3"]]:
    """Swap `conditions` among the examples and compare both results with the ground truth.

    Returns the PSNRs and the images generated with the wrong condition. `right` are the images
    generated with the right one, if they exist already.
    """
    right = generate(batch) if right is None else right
    swap = sample_derangement(len(right), seed)
    wrong = generate({**batch, **{name: batch[name][swap] for name in conditions}})
    figures = Influence(mean_psnr(right, truth, regions), mean_psnr(wrong, truth, regions))
    return figures, wrong


def compute_gain(
    metric: str,
    better: str,
    right: Sequence[float],
    wrong: Sequence[float],
    *,
    seed: int,
    region: str = "full image",
) -> dict[str, Any]:
    """Return the gain of a condition in units of a per-image metric, as the scores file stores it.

    `right` and `wrong` are the values of the same examples; `better` is "higher" or "lower". The
    gain is positive where the right condition is better; its interval is a paired bootstrap over
    the examples.
    """
    if len(right) != len(wrong) or len(right) < 2:
        raise OmfaError(
            f"influence needs both values of at least 2 examples, got {len(right)} and {len(wrong)}"
        )
    ours, others = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
    # paired differences: the variation between examples cancels
    each = ours - others if better == "higher" else others - ours
    return {
        "metric": metric,
        "better": better,
        "region": region,
        "count": len(each),
        "right": float(ours.mean()),
        "wrong": float(others.mean()),
        "gain": float(each.mean()),
        "interval": list(bootstrap_interval(each, seed)),
        "interval_kind": f"bootstrap 95%, {RESAMPLES} resamples",
    }
