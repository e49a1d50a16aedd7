"""In which order training meets the records of one or several folders: (seed, position) alone."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import grain
import numpy as np

from omfa_jax.core.errors import OmfaError

# weights count in thousandths, so that the pattern of folders repeats after 1000 positions at most
RESOLUTION = 1000

Weighted = tuple[tuple[str, float], ...]


class Drawn(NamedTuple):
    """What one position of the training order holds; `epoch` is the folder's own, from 0."""

    dataset: int
    index: int
    epoch: int


class Order:
    """The endless order of training: `order[position]` is a `Drawn`, at a cost without `counts`.

    `counts`: records of each folder. Every folder is shuffled by itself, anew in each of its
    epochs, and goes on to its next epoch when it is through, whatever the others do. Which folder a
    position belongs to is fixed by `weights`: of any 1000 positions each folder gets its share,
    spread evenly. Hosts and batches have no part in it.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int):
        self._counts = tuple(counts)
        # one shuffle an epoch, told from the number drawn: no repetition need be asked for
        self._shuffled = [
            grain.MapDataset.range(count).seed(folder_seed(seed, number)).shuffle()
            for number, count in enumerate(counts)
        ]
        self._parts = proportions(weights)
        self._dataset, self._rank = interleaved(self._parts)

    def __getitem__(self, position: int) -> Drawn:
        block, place = divmod(position, len(self._dataset))
        dataset = int(self._dataset[place])
        drawn = block * self._parts[dataset] + int(self._rank[place])
        index = self._shuffled[dataset][drawn]
        assert index is not None  # a shuffled range holds no gaps
        return Drawn(dataset, index, drawn // self._counts[dataset])


def folder_seed(seed: int, number: int) -> int:
    """Return the shuffling seed of a mixture's folder; the first has the run's own."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def proportions(weights: Sequence[float]) -> tuple[int, ...]:
    """Return weights as the smallest whole numbers that are right to a thousandth of their sum."""
    total = math.fsum(weights)
    parts = [round(weight / total * RESOLUTION) for weight in weights]
    shared = math.gcd(*parts)
    return tuple(part // shared for part in parts)


def interleaved(parts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (dataset, rank) of each place of a block of sum(parts) places, evenly spread.

    `rank` counts the dataset's places before this one in the block.
    """
    dataset = np.repeat(np.arange(len(parts)), parts)
    rank = np.concatenate([np.arange(part) for part in parts])
    when = (rank + 0.5) / np.repeat(parts, parts)
    order = np.argsort(when, kind="stable")
    return dataset[order].astype(np.int32), rank[order].astype(np.int32)


def parse_mixture(text: str) -> Weighted:
    """Return (folder, weight) pairs of "DIR=0.7,DIR=0.3"; OmfaError if it is not of that form."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        folder, _, weight = part.rpartition("=")
        try:
            pairs.append((folder.strip(), float(weight)))
        except ValueError:
            folder = ""
        if not folder:
            raise OmfaError(
                f"config.data.mixture: expected DIR=WEIGHT,DIR=WEIGHT, got {part!r} in {text!r}"
            )
    return check_mixture(tuple(pairs))


def check_mixture(mixture: Weighted) -> Weighted:
    """Return the mixture, or raise an OmfaError that names the folder or weight that is wrong."""
    seen: set[str] = set()
    total = sum(weight for _, weight in mixture)
    for folder, weight in mixture:
        if not (math.isfinite(total) and weight > 0 and weight / total >= 1 / RESOLUTION):
            raise OmfaError(
                f"config.data.mixture: the weight of {folder} must be above 0, and at least a"
                f" {RESOLUTION}th of all; got {weight}"
            )
        if os.path.normpath(folder) in seen:
            raise OmfaError(f"config.data.mixture: {folder} is named twice; add its weights up")
        seen.add(os.path.normpath(folder))
    return mixture
