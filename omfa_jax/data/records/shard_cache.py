"""Shards of s3:// on a disk of this machine, because ArrayRecord cannot read them where they are.

A shard is downloaded when its first record is wanted. All processes of the machine share the
folder. OMFA_SHARD_CACHE is the folder (default: ~/.cache/omfa_jax/shards) and OMFA_SHARD_CACHE_GB
its greatest size (default: 100); beyond it the shards that were opened longest ago are deleted.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import RemotePath

log = logging.getLogger(__name__)

_SUFFIX = ".array_record"
DEFAULT_GB = 100.0


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
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    folder = os.environ.get("OMFA_SHARD_CACHE") or cache / "omfa_jax" / "shards"
    text = os.environ.get("OMFA_SHARD_CACHE_GB") or str(DEFAULT_GB)
    try:
        limit = float(text) * 1e9
    except ValueError:
        limit = -1.0
    if not limit > 0:
        raise OmfaError(f"OMFA_SHARD_CACHE_GB: expected gigabytes above 0, got {text!r}")
    return Path(folder), limit


@functools.cache
def _say_where(folder: Path, limit: float) -> None:
    log.info(
        "shards of s3:// are kept in %s, %g GB at most (OMFA_SHARD_CACHE, OMFA_SHARD_CACHE_GB)",
        *(folder, limit / 1e9),
    )


def _download(shard: RemotePath, file: Path, size: int) -> None:
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=file.parent)
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
    found = []
    for entry in os.scandir(folder):
        if entry.name.endswith(_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= room:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
