"""Copies of a bucket's shards on a disk of this machine, which all its processes share.

ArrayRecord cannot read s3:// at all: a shard is downloaded when its first record is wanted. In
gs:// each record is a request with a connection of its own: while a training reads there, the
shards are downloaded in the background, and then read here (`BackgroundCopies`). OMFA_SHARD_CACHE
is the folder (default: ~/.cache/omfa_jax/shards) and OMFA_SHARD_CACHE_GB its greatest size
(default: 100; with 0 nothing of gs:// is copied); beyond it the shards that were opened longest ago
are deleted.
"""

import collections
import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, RemotePath

log = logging.getLogger(__name__)

_SUFFIX = ".array_record"
DEFAULT_GB = 100.0
# of downloads that were killed
_STALE_SECONDS = 3600.0
# what the records that this process reads from gs:// take on the disk, by folder
_reserved: dict[RemotePath, int] = {}


class BackgroundCopies:
    """Copies shards one after another in a thread of its own; after a failure, none any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: collections.deque[RemotePath] = collections.deque()
        self._copies: dict[RemotePath, Path] = {}
        self._thread: threading.Thread | None = None
        self._failed = False

    def request(self, shard: RemotePath) -> None:
        """Copy a shard as soon as those requested before it are copied."""
        with self._lock:
            self._copies.pop(shard, None)
            if self._failed or shard in self._wanted:
                return
            self._wanted.append(shard)
            if self._thread is None:
                # a daemon: the end of a job does not wait for a copy
                self._thread = threading.Thread(target=self._copy, name="shard-copy", daemon=True)
                self._thread.start()

    def get(self, shard: AnyPath) -> Path | None:
        """Return the copy of a shard; None while there is none."""
        return self._copies.get(shard)  # type: ignore[call-overload]

    def _copy(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                shard = self._wanted[0]
            try:
                copy = fetch(shard)
            except Exception as error:  # whatever it is, the records can be read without copies
                log.warning("records are read in the bucket from here on, not copied: %s", error)
                with self._lock:
                    self._failed = True
                    self._wanted.clear()
                continue
            with self._lock:
                self._wanted.popleft()
                self._copies[shard] = copy


def reserve_room(records: RemotePath, size_bytes: int) -> bool:
    """Return whether all shards of `records` may be copied, and log what is decided.

    They must fit in the cache beside those that this process reserved before, and may take half of
    the disk's free room.
    """
    folder, limit = get_settings()
    if not limit:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 2 + sum(size for _, size, _ in _list_copies(folder))
    except OSError as error:
        log.warning("%s is read in the bucket, a request for each record: %s", records, error)
        return False
    _reserved[records] = size_bytes
    wanted = sum(_reserved.values())
    if wanted <= min(limit, free):
        _say_where(folder, limit)
        return True
    del _reserved[records]
    log.info(
        "%s is read in the bucket, a request for each record: copies would take %.1f GB of %s,"
        " where %.1f may be used (OMFA_SHARD_CACHE, OMFA_SHARD_CACHE_GB)",
        *(records, wanted / 1e9, folder, min(limit, free) / 1e9),
    )
    return False


def fetch(shard: RemotePath) -> Path:
    """Return a local file with the content of a shard, downloaded unless it is there.

    OmfaError if it is larger than the cache may be, or the disk lacks the room.
    """
    folder, limit = get_settings()
    status = shard.stat()
    size = status.st_size
    # another content has another size or time, and so another name
    name = hashlib.sha256(f"{shard} {size} {status.st_mtime}".encode()).hexdigest()
    file = folder / f"{name}{_SUFFIX}"
    _say_where(folder, limit)
    if size > limit:
        raise OmfaError(
            f"{shard} has {size / 1e9:.1f} GB, more than the cache of shards may have"
            f" ({limit / 1e9:g} GB): set OMFA_SHARD_CACHE_GB"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{name}.lock"):
        if file.is_file() and file.stat().st_size == size:
            os.utime(file)
            return file
        _make_room(folder, limit - size)
        _download(shard, file, size)
    return file


def get_settings() -> tuple[Path, float]:
    """Return the cache's folder and its greatest size in bytes."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as in containers
        cache = Path(tempfile.gettempdir(), f"cache-{os.getuid()}")
    folder = os.environ.get("OMFA_SHARD_CACHE") or cache / "omfa_jax" / "shards"
    text = os.environ.get("OMFA_SHARD_CACHE_GB") or str(DEFAULT_GB)
    try:
        limit = float(text) * 1e9
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise OmfaError(f"OMFA_SHARD_CACHE_GB: expected gigabytes, 0 or more, got {text!r}")
    return Path(folder), limit


@functools.cache
def _say_where(folder: Path, limit: float) -> None:
    log.info(
        "copies of shards are kept in %s, %g GB at most (OMFA_SHARD_CACHE, OMFA_SHARD_CACHE_GB)",
        *(folder, limit / 1e9),
    )


def _download(shard: RemotePath, file: Path, size: int) -> None:
    for part in file.parent.glob(f".{file.stem}-*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink()
    handle, name = tempfile.mkstemp(prefix=f".{file.stem}-", suffix=".part", dir=file.parent)
    os.close(handle)
    try:
        shard.download(name)
        if (found := os.path.getsize(name)) != size:
            raise OSError(f"{shard}: got {found} of {size} bytes")
        os.replace(name, file)
    except OSError as error:
        raise OmfaError(f"cannot keep {shard} in {file.parent}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _make_room(folder: Path, room: float) -> None:
    """Delete the shards that were opened longest ago until the others fit in `room` bytes."""
    # who has one open keeps it until it is closed
    found = _list_copies(folder)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= room:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size


def _list_copies(folder: Path) -> list[tuple[float, int, Path]]:
    """Return (time of the last opening, bytes, path) of the copies in the folder."""
    found = []
    for file in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            found.append((status.st_mtime, status.st_size, file))
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
