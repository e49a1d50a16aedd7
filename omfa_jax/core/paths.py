"""The one way from a text to a path: `pathlib.Path` on this machine, `RemotePath` for a bucket.

Whatever reads or writes where a user says takes `AnyPath`, and never `Path(text)`: `pathlib` reads
"gs://bucket/run" as the relative folder "gs:/bucket/run".
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from omfa_jax.core.local_paths import find_url_scheme, require_local
from omfa_jax.core.remote_path import SCHEMES, AnyPath, RemotePath, require_client

__all__ = ["AnyPath", "RemotePath", "is_remote", "local_copy", "to_path"]


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

    A remote file is downloaded to the temporary folder (TMPDIR) and deleted at the end.
    """
    place = to_path(path)
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="omfa-") as folder:
        file = Path(folder) / place.name
        place.download(file)
        yield file


@contextlib.contextmanager
def local_copy_of_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a folder of this machine with the content of `path`; remote files are downloaded."""
    place = to_path(path)
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="omfa-") as temporary:
        folder = Path(temporary) / place.name
        download_folder(place, folder)
        yield folder


def download_folder(source: RemotePath, folder: Path) -> None:
    """Write all objects below `source` into a local folder; OSError if the disk lacks the room."""
    tree = source.list_tree()
    if not tree:
        raise FileNotFoundError(errno.ENOENT, "no objects there", str(source))
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(tree.values()), shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"{source} has {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise OSError(errno.ENOSPC, sizes, str(folder))
    for name in tree:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (source / name).download(file)
