"""Pose groups: which records of a split show the same person in the same outfit.

The groups of a split are stored next to its record files as one int32 array. Opening them reads
4 bytes per record and no record; drawing a partner takes time independent of the data set's size.
"""

import contextlib
import os
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int32
from tqdm import tqdm

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.npz_reader import read_npy
from omfa_jax.core.paths import AnyPath, local_copy, to_path
from omfa_jax.data.records import record_schema

# the group number of a record without a group
NO_GROUP = -1
GROUPS_FILE = "groups-{}.npy"


class PoseGroups:
    """Samples partners of a record from its group: `groups.sample_partner(index, rng)`.

    `numbers`: the group of each record, NO_GROUP without one. Memory: 12 bytes per record.
    """

    def __init__(self, numbers: Int32[np.ndarray, "records"]):
        self._numbers = numbers
        # members of group g: _members[_ends[g - 1]:_ends[g]]. NO_GROUP is -1, so it sorts to the
        # front and is cut off.
        self._members = np.argsort(numbers, kind="stable").astype(np.int32)
        self._members = self._members[np.count_nonzero(numbers == NO_GROUP) :]
        sizes = (
            np.bincount(numbers[numbers != NO_GROUP]) if len(self._members) else np.zeros(0, int)
        )
        self._ends = np.cumsum(sizes).astype(np.int32)

    def sample_partner(self, index: int, rng: np.random.Generator) -> int:
        """Return another record of the group at random; the record itself if it is the only one."""
        number = int(self._numbers[index])
        if number == NO_GROUP:
            return index
        start = int(self._ends[number - 1]) if number else 0
        members = self._members[start : int(self._ends[number])]
        if len(members) == 1:
            return index
        # uniform over the others: skip the record's own place
        place = int(rng.integers(len(members) - 1))
        return int(members[place + (place >= np.searchsorted(members, index))])


def get_groups_path(records_dir: str | os.PathLike, split: str) -> AnyPath:
    """Return the path of a split's groups, in the folder of the record files.

    They are replaced together with the records, so that they cannot belong to older ones.
    """
    folder = to_path(records_dir)
    return folder / record_schema.read_manifest(folder)["builder"] / GROUPS_FILE.format(split)


def load_groups(records_dir: str | os.PathLike, split: str) -> PoseGroups:
    """Return the split's groups from their file.

    Records of older versions have no such file: it is then computed from the records, and written
    if the folder is writable. Raises OmfaError if the records cannot be read.
    """
    file = get_groups_path(records_dir, split)
    source = record_schema.open_records(records_dir, split)
    with contextlib.suppress(OSError, ValueError):
        with local_copy(file) as copy:
            stored = read_npy(copy)
        if stored.shape == (len(source),) and stored.dtype == np.int32:
            return PoseGroups(stored)
    numbers = read_group_numbers(source)
    # in a read-only folder the records are read again at the next start
    with contextlib.suppress(OmfaError), atomic_write(file) as temporary:
        np.save(temporary, numbers)
    return PoseGroups(numbers)


def read_group_numbers(source: record_schema.RecordSource) -> Int32[np.ndarray, "records"]:
    """Return the group number of each record, in order of appearance; reads every record."""
    bar = tqdm(range(len(source)), desc="pose groups", unit="record", disable=None)
    return number_groups((source[index].group for index in bar), len(source))


def number_groups(names: Iterable[str], count: int) -> Int32[np.ndarray, "count"]:
    """Return each of `count` records' group number, in order of appearance; "" is NO_GROUP."""
    found: dict[str, int] = {}
    numbers = np.full(count, NO_GROUP, np.int32)
    for index, name in enumerate(names):
        if name:
            numbers[index] = found.setdefault(name, len(found))
    return numbers
