"""Random access to the records of a split, in the ArrayRecord files of its shards.

ArrayRecord's own data source keeps every file open, which ends at the process's limit of open files
(1,024 on many machines), and finds no records in s3:// without an error. Here at most half of that
limit is open, gs:// is read where it is until `shard_cache` has a copy, and s3:// from copies.
"""

import bisect
import collections
import functools
import itertools
import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, RemotePath
from omfa_jax.data.records import shard_cache

# as ArrayRecord's data source: random access reads nothing ahead
_READER_OPTIONS, _BUFFER_BYTES = "readahead_buffer_size:0", 32768
# what the rest of the process may need: sockets, devices, checkpoints
_WANTED_OPEN_FILES = 65_536
SHOWN_SHARDS = 5


class ShardReader:
    """`len(reader)` and `reader[i]`, the stored bytes of record i. Thread-safe and picklable.

    `shards`: the path of each file and its number of records, in order.
    """

    def __init__(self, shards: Sequence[tuple[AnyPath, int]]):
        self._paths = [path for path, _ in shards]
        self._ends = list(itertools.accumulate(count for _, count in shards))
        self._copies_wanted = False
        self._start()

    def _start(self) -> None:
        # shard -> its reader, and the path that it reads
        self._open: collections.OrderedDict[int, tuple[Any, AnyPath]] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._copies = shard_cache.BackgroundCopies() if self._copies_wanted else None

    def copy_in_background(self, size_bytes: int) -> None:
        """Copy shards of gs:// to this machine while they are read, if there is room for them all.

        A record read in a bucket is a request and a connection of its own. `size_bytes`: of all
        shards together.
        """
        path = self._paths[0] if self._paths else None
        if isinstance(path, RemotePath) and path.scheme == "gs":
            self._copies_wanted = shard_cache.reserve_room(path.parent, size_bytes)
            self._start()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        # held here while it is read: it is closed when nobody holds it any more
        reader = self._get_reader(shard)
        return reader.read([index - first])[0]

    def _get_reader(self, shard: int) -> Any:
        copy = self._copies.get(self._paths[shard]) if self._copies else None
        with self._lock:
            reader, path = self._open.get(shard, (None, None))
            if reader is not None and copy in (None, path):
                self._open.move_to_end(shard)
                return reader
        # not under the lock: a shard in a bucket takes a while, and others are wanted meanwhile
        opened = self._open_reader(shard, copy)
        with self._lock:
            self._open[shard] = opened
            while len(self._open) > get_most_open_files():
                self._open.popitem(last=False)
        return opened[0]

    def _open_reader(self, shard: int, copy: Path | None) -> tuple[Any, AnyPath]:
        path = self._paths[shard]
        if copy is not None and copy.is_file():
            path = copy
        elif isinstance(path, RemotePath):
            if path.scheme == "s3":
                path = shard_cache.fetch(path)
            elif self._copies:
                self._copies.request(path)
        reader = ArrayRecordReader(
            str(path), options=_READER_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
        )
        expected = self._ends[shard] - (self._ends[shard - 1] if shard else 0)
        if reader.num_records() != expected:
            raise OmfaError(f"{path}: expected {expected} records, found {reader.num_records()}")
        return reader, path

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_paths", "_ends", "_copies_wanted")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


@functools.cache
def get_most_open_files() -> int:
    """Return how many shards may be open; raises the process's soft limit of open files first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass
    return _WANTED_OPEN_FILES if soft == resource.RLIM_INFINITY else max(16, soft // 2)


def require_whole(
    folder: AnyPath, names: Sequence[str], split_bytes: int, sizes: dict[str, int | None]
) -> None:
    """Raise an OmfaError if shards are missing, or have not as many bytes as were written.

    `sizes`: what one listing of `folder` found. `split_bytes`: of all shards together.
    """
    missing = [name for name in names if name not in sizes]
    if missing:
        shown = ", ".join(missing[:SHOWN_SHARDS]) + (", ..." if len(missing) > SHOWN_SHARDS else "")
        raise OmfaError(
            f"{folder}: {len(missing)} of {len(names)} shards are missing ({shown}); copy them"
            " again, or build again"
        )
    found = sum(sizes[name] or 0 for name in names)
    if found != split_bytes:
        empty = [name for name in names if not sizes[name]]
        which = f" ({', '.join(empty[:SHOWN_SHARDS])} empty)" if empty else ""
        raise OmfaError(
            f"{folder}: the shards have {found:,} bytes, and {split_bytes:,} were written{which};"
            " one is cut short or another's: copy them again, or build again"
        )
