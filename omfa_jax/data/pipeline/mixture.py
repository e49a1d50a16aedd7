"""The order of training over one or several folders, a function of (seed, position)."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import grain
import numpy as np

from omfa_jax.core.errors import OmfaError

# Weights are rounded to thousandths, so that the pattern of folders has a period of at most 1000
RESOLUTION = 1000

WeightedFolders = tuple[tuple[str, float], ...]


class OrderEntry(NamedTuple):
    """The record at one position of the training order; `epoch` counts its folder's, from 0."""

    dataset: int
    index: int
    epoch: int


class TrainingOrder:
    """The endless order of training: `order[position]` is an `OrderEntry`, in constant time.

    `counts`: the number of records in each folder. Each folder is reshuffled separately in each
    of its epochs, and its epochs end independently of the other folders'. `weights` fix the folder
    of each position: in any 1000 positions each folder gets its share, evenly spread. The order
    does not depend on hosts or batches.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int):
        self._counts = tuple(counts)
        # Grain derives the epoch, and its shuffle, from an index beyond the length: no repeat()
        self._shuffled = [
            grain.MapDataset.range(count).seed(derive_folder_seed(seed, number)).shuffle()
            for number, count in enumerate(counts)
        ]
        self._parts = compute_integer_weights(weights)
        self._dataset, self._rank = interleave_folders(self._parts)

    def __getitem__(self, position: int) -> OrderEntry:
        block, place = divmod(position, len(self._dataset))
        dataset = int(self._dataset[place])
        count = block * self._parts[dataset] + int(self._rank[place])
        index = self._shuffled[dataset][count]
        assert index is not None  # a shuffled range has no gaps
        return OrderEntry(dataset, index, count // self._counts[dataset])


def derive_folder_seed(seed: int, number: int) -> int:
    """Return the shuffle seed of a mixture's folder; the first folder uses the run's seed.

    So a mixture of one folder has the order of training on `config.data.records`.
    """
    if number == 0:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def compute_integer_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the weights as the smallest integers in proportion, to a thousandth of their sum."""
    # fsum: the parts must not depend on the order in which the weights are added
    total = math.fsum(weights)
    parts = [round(weight / total * RESOLUTION) for weight in weights]
    shared = math.gcd(*parts)
    return tuple(part // shared for part in parts)


def interleave_folders(parts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (dataset, rank) of each place in a block of sum(parts) places, evenly spread.

    `rank` is the number of earlier places of that dataset in the block.
    """
    # computed once per run: a block has at most RESOLUTION places
    dataset = np.repeat(np.arange(len(parts)), parts)
    rank = np.concatenate([np.arange(part) for part in parts])
    # place k of n is due at (k + 0.5) / n of the block; sorting these spreads every folder evenly
    when = (rank + 0.5) / np.repeat(parts, parts)
    order = np.argsort(when, kind="stable")
    return dataset[order].astype(np.int32), rank[order].astype(np.int32)


def parse_mixture(text: str) -> WeightedFolders:
    """Return the (folder, weight) pairs of "DIR=0.7,DIR=0.3"; OmfaError for another form."""
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


def check_mixture(mixture: WeightedFolders) -> WeightedFolders:
    """Return the mixture, or raise an OmfaError that names the wrong folder or weight."""
    seen: set[str] = set()
    total = sum(weight for _, weight in mixture)
    for folder, weight in mixture:
        if not (math.isfinite(total) and weight > 0 and weight / total >= 1 / RESOLUTION):
            raise OmfaError(
                f"config.data.mixture: weight of {folder}: expected more than 0 and at least"
                f" 1/{RESOLUTION} of the sum, got {weight}"
            )
        if os.path.normpath(folder) in seen:
            raise OmfaError(f"config.data.mixture: {folder} is named twice; add its weights")
        seen.add(os.path.normpath(folder))
    return mixture
