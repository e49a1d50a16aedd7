"""Multi-pose pairs: records that show one person in one outfit, found without reading them again.

The groups of a split lie beside its record files as one array, written with the records: a start
reads 4 bytes a record, and a pair costs the same in a set of any size.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tqdm import tqdm

from omfa_jax.core.archives import read_npy
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_write
from omfa_jax.data import schema

# stands for a record whose group is unknown
ALONE = -1
FILE = "groups-{}.npy"


class Groups:
    """Who may be paired with whom: `groups.partner(index, rng)`.

    `numbers`: each record's group, ALONE where it has none. Memory is 12 bytes a record.
    """

    def __init__(self, numbers: Int32[np.ndarray, "records"]):
        self._numbers = numbers
        # the members of group g are _members[_ends[g - 1]:_ends[g]], those without one apart
        self._members = np.argsort(numbers, kind="stable").astype(np.int32)
        self._members = self._members[np.count_nonzero(numbers == ALONE) :]
        sizes = np.bincount(numbers[numbers != ALONE]) if len(self._members) else np.zeros(0, int)
        self._ends = np.cumsum(sizes).astype(np.int32)

    def partner(self, index: int, rng: np.random.Generator) -> int:
        """Return another record of the record's group, each as likely; itself if there is none."""
        number = int(self._numbers[index])
        if number == ALONE:
            return index
        start = int(self._ends[number - 1]) if number else 0
        members = self._members[start : int(self._ends[number])]
        if len(members) == 1:
            return index
        # of the others: skip over its own place
        drawn = int(rng.integers(len(members) - 1))
        return int(members[drawn + (drawn >= np.searchsorted(members, index))])


def group_file(records_dir: str | os.PathLike, split: str) -> Path:
    """Return where a split's groups are kept: with the record files, which are replaced as one."""
    folder = Path(records_dir)
    return folder / schema.read_manifest(folder)["builder"] / FILE.format(split)


def read_groups(records_dir: str | os.PathLike, split: str) -> Groups:
    """Return the split's groups, from their file or, where records are older, from these.

    The file is then written if the folder lets us; it counts only for as many records as there are.
    Raises OmfaError if the records cannot be read.
    """
    file = group_file(records_dir, split)
    source = schema.open_records(records_dir, split)
    with contextlib.suppress(OSError, ValueError):
        stored = read_npy(file)
        if stored.shape == (len(source),) and stored.dtype == np.int32:
            return Groups(stored)
    numbers = numbered(source)
    # records that cannot be written to are read again at the next start
    with contextlib.suppress(OmfaError), atomic_write(file) as temporary:
        np.save(temporary, numbers)
    return Groups(numbers)


def numbered(source: schema.RecordSource) -> Int32[np.ndarray, "records"]:
    """Return the number of each record's group, in order of appearance; reads every record once."""
    bar = tqdm(range(len(source)), desc="pose groups", unit="record", disable=None)
    return numbers_of((source[index].group for index in bar), len(source))


def numbers_of(names: Iterable[str], count: int) -> Int32[np.ndarray, "count"]:
    """Return the number of each of `count` records' groups; "" is ALONE."""
    found: dict[str, int] = {}
    numbers = np.full(count, ALONE, np.int32)
    for index, name in enumerate(names):
        if name:
            numbers[index] = found.setdefault(name, len(found))
    return numbers
