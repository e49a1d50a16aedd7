"""Influence: how much better the picture is with the right condition than with a wrong one.

A model that ignores a condition scores 0 dB here, however good its pictures look.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.psnr import mean_psnr

Batch = dict[str, Float[np.ndarray, "b h w 3"]]
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
