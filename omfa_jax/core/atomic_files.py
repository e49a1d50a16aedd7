"""Atomic writes and locks."""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import RemotePath, is_remote, to_path
from omfa_jax.core.storage_lock import is_storage_locked, storage_lock

LOCK_NAME = ".lock"
# the marker in the names of `atomic_write`'s temporary files, and how many characters of the
# target's name they keep (a file name has at most 255 bytes)
_MARK, _STEM = "-omfa-", 40
TEMPORARY_GLOB = f".*{_MARK}????????"
_LEFTOVER = re.compile(rf"\..*{_MARK}[a-z0-9_]{{8}}(\.\w+)?")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it into place only if the block succeeds.

    Readers therefore never see a partial file. The temporary file keeps the suffix of `path`,
    because writers such as Pillow and numpy choose the format by it. Its name starts with a dot;
    `delete_stale_temporaries` deletes the ones that killed processes left behind.

    For object storage the temporary file is in this machine's TMPDIR, and is uploaded at the end.
    """
    path = to_path(path)
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="omfa-") as folder:
            local = Path(folder) / path.name
            yield local
            write_remote(path, local)
        return
    temporary = handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:_STEM]}{_MARK}", suffix=path.suffix, dir=path.parent
        )
        temporary = Path(name)
        # held until the file is in place: `delete_stale_temporaries` skips locked files
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        temporary.chmod(0o666 & ~get_umask())
        temporary.replace(path)
    except OSError as error:
        raise OmfaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def write_remote(path: RemotePath, local: Path) -> None:
    """Upload a local file to object storage; OmfaError with both names if that fails."""
    try:
        path.upload(local)
    except OSError as error:
        raise OmfaError(f"cannot write {path}: {error.strerror or error}") from error


def delete_stale_temporaries(folder: str | os.PathLike) -> None:
    """Delete the temporary files that killed processes left in a folder, if it exists.

    Files of running processes are locked and stay; on a file system without locks all stay.
    Object storage has none.
    """
    if is_remote(folder):
        return
    with contextlib.suppress(OSError):
        found = [entry.path for entry in os.scandir(folder) if _LEFTOVER.fullmatch(entry.name)]
        for path in found:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)


@contextlib.contextmanager
def exclusive_lock(target: str | os.PathLike | IO, refusal: str | None = None) -> Iterator[None]:
    """Lock a file or folder for this process; OmfaError(`refusal`) if another process holds it.

    A path named `LOCK_NAME` is created if it does not exist; any other path must exist. A file that
    is already open stays locked until the caller closes it. The kernel releases the lock when the
    process ends, however it ends. With a lock file its folder is locked as well, which outlives
    that file's being deleted. File systems without locks are accepted without protection. Of
    object storage the folder is locked (`storage_lock`), also for the path of its lock file.
    """
    if refusal is None:
        refusal = f"another run is using {target}: wait for it, stop it, or give another folder"
    if isinstance(target, str | os.PathLike) and is_remote(target):
        place = RemotePath(target)
        with storage_lock(place.parent if place.name == LOCK_NAME else place, refusal):
            yield
        return
    if not isinstance(target, str | os.PathLike):
        _lock(target, refusal)
        yield
        return
    # NFS grants an exclusive lock only on a descriptor that is open for writing, which a folder's
    # never is: what several hosts share has a lock file
    is_lock_file = Path(target).name == LOCK_NAME
    flags = os.O_RDWR | os.O_CREAT if is_lock_file else os.O_RDONLY
    held: list[int] = []
    try:
        try:
            held.append(os.open(target, flags, 0o666))
            if is_lock_file:
                # the file may be deleted meanwhile, and another run would lock its own new one
                held.append(os.open(Path(target).parent, os.O_RDONLY))
        except OSError as error:
            raise OmfaError(f"{target}: cannot be opened: {error.strerror}") from None
        for handle in held:
            _lock(handle, refusal)
        yield
    finally:
        for handle in held:
            os.close(handle)


def _lock(file: int | IO, refusal: str) -> None:
    # raised outside the except block of `_try_lock`: EAGAIN as the context of the error would
    # be classified as a fault that a restart can fix
    if not _try_lock(file):
        raise OmfaError(refusal)


def _try_lock(file: int | IO) -> bool:
    """Lock an open file; return False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # a file system without locks
        pass
    return True


def is_locked(folder: str | os.PathLike) -> bool:
    """Return True while a process holds the folder's lock file, even if that has been deleted."""
    if is_remote(folder):
        return is_storage_locked(RemotePath(folder))
    for path, flags in ((Path(folder) / LOCK_NAME, os.O_RDWR), (Path(folder), os.O_RDONLY)):
        # there is no lock file before the first run
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, flags)
            try:
                if not _try_lock(handle):
                    return True
            finally:
                os.close(handle)
    return False


def get_umask() -> int:
    """Return the process's umask, which mkstemp ignores: its files are private."""
    # there is no call that reads it without setting it
    umask = os.umask(0)
    os.umask(umask)
    return umask
