"""The one way from a text to a path: `pathlib.Path` on this machine, `RemotePath` for a bucket.

Whatever reads or writes where a user says takes `AnyPath`, and never `Path(text)`: `pathlib` reads
"gs://bucket/run" as the relative folder "gs:/bucket/run".
"""

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeGuard

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.local_paths import find_url_scheme, require_local
from omfa_jax.core.remote_path import SCHEMES, AnyPath, RemotePath, require_client

__all__ = ["AnyPath", "RemotePath", "is_remote", "local_copy", "to_path"]

log = logging.getLogger(__name__)

# a download or an upload from here on is worth a line
_LARGE_BYTES = 100_000_000


def to_path(path: str | os.PathLike) -> AnyPath:
    """Return a path of this machine, or of object storage for a URL of a scheme in `SCHEMES`.

    Raises OmfaError for any other URL, and for a scheme whose client is not installed.
    """
    if isinstance(path, RemotePath):
        return path
    # also of a Path, which has one slash of "gs://" left
    text = os.fspath(path)
    if find_url_scheme(text) in SCHEMES:
        remote = RemotePath(text)
        require_client(remote.scheme)
        return remote
    require_local(text)
    return Path(path)


def is_remote(path: str | os.PathLike) -> TypeGuard[RemotePath]:
    """Return True for a path of object storage, be it a RemotePath or a text."""
    return isinstance(path, RemotePath) or find_url_scheme(os.fspath(path)) in SCHEMES


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a file of this machine with the content of `path`, for libraries that open no URL.

    A remote file is downloaded to the temporary folder (TMPDIR) and deleted at the end; memory maps
    of it stay valid. OmfaErrors that name the copy name `path` instead.
    """
    place = to_path(path)
    if isinstance(place, Path):
        yield place
        return
    with _temporary_folder() as folder:
        file = folder / place.name
        require_room(place, {place.name: place.stat().st_size}, folder)
        place.download(file)
        with name_original(file, place):
            yield file


@contextlib.contextmanager
def local_copy_of_folder(path: str | os.PathLike, *patterns: str) -> Iterator[Path]:
    """Yield a folder of this machine with the content of `path`, as `local_copy` does.

    Of a remote folder only what matches one of `patterns` is downloaded, if any are given; here `*`
    matches slashes, too.
    """
    place = to_path(path)
    if isinstance(place, Path):
        yield place
        return
    with _temporary_folder() as temporary:
        folder = temporary / place.name
        download_folder(place, folder, *patterns)
        with name_original(folder, place):
            yield folder


def download_folder(source: RemotePath, folder: Path, *patterns: str) -> None:
    """Write all objects below `source` into a local folder; OSError if the disk lacks the room."""
    tree = source.list_tree()
    if not tree:
        raise FileNotFoundError(errno.ENOENT, "no objects there", str(source))
    if patterns:
        tree = {n: size for n, size in tree.items() if any(fnmatchcase(n, p) for p in patterns)}
    folder.mkdir(parents=True, exist_ok=True)
    require_room(source, tree, folder)
    for name in tree:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (source / name).download(file)


def require_room(source: RemotePath, sizes: Mapping[str, int], folder: Path) -> None:
    """Raise an OSError if a folder lacks the room for a download; log a large one before it."""
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    where = f"{tempfile.gettempdir()} (TMPDIR)" if _is_temporary(folder) else str(folder)
    if needed > free:
        sizes_gb = (
            f"{source} has {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {where}"
        )
        advice = "free some room, or let TMPDIR name a larger disk"
        raise OSError(errno.ENOSPC, f"{sizes_gb}: {advice}")
    if needed >= _LARGE_BYTES:
        log.info(
            "downloading %s, %.1f GB, to %s, where %.1f GB are free",
            *(source, needed / 1e9, where, free / 1e9),
        )


@contextlib.contextmanager
def name_original(copy: Path, original: RemotePath) -> Iterator[None]:
    """Replace the name of a temporary copy with the original's in OmfaErrors."""
    try:
        yield
    except OmfaError as error:
        error.args = tuple(
            arg.replace(str(copy), str(original)) if isinstance(arg, str) else arg
            for arg in error.args
        )
        raise


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    # ignore errors: NFS keeps a name for a deleted file that is still mapped
    with tempfile.TemporaryDirectory(prefix="omfa-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _is_temporary(folder: Path) -> bool:
    return folder.is_relative_to(tempfile.gettempdir())
