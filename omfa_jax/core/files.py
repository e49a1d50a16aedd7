"""Files that are whole or absent, and early checks that a path can be used."""

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from omfa_jax.core.errors import OmfaError

LOCK = ".lock"
# what `atomic_write` puts into the names of its temporary files, and how much of the target's name
# is left room for: a name has 255 bytes at most
_MARK, _STEM = "-omfa-", 40
LEFTOVERS = f".*{_MARK}????????"
_LEFTOVER = re.compile(rf"\..*{_MARK}[a-z0-9_]{{8}}(\.\w+)?")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only if the block succeeds.

    Readers therefore never meet a half-written file. The temporary file keeps the suffix of
    `path`, because writers such as Pillow and numpy choose their format by it. Its name begins
    with a dot; what a kill leaves of it `clear_leftovers` deletes.
    """
    path = Path(path)
    temporary = handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:_STEM]}{_MARK}", suffix=path.suffix, dir=path.parent
        )
        temporary = Path(name)
        # held until the file is in place: so a leftover can be told from a file being written
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        temporary.chmod(0o666 & ~current_umask())
        temporary.replace(path)
    except OSError as error:
        raise OmfaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def clear_leftovers(folder: str | os.PathLike) -> None:
    """Delete the temporary files that killed processes left in a folder, if it is there.

    Those of living processes are locked, and stay; so do all on a file system without locks.
    """
    with contextlib.suppress(OSError):
        found = [entry.path for entry in os.scandir(folder) if _LEFTOVER.fullmatch(entry.name)]
        for path in found:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike, what: str = "another run is writing") -> Iterator[None]:
    """Hold a lock on an existing folder; if another process has it, raise an OmfaError.

    The lock goes with the process, however that ends, and leaves no file. File systems without
    locks are let pass.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OmfaError(f"{folder}: cannot be opened: {error.strerror}") from None
    try:
        lock(handle, f"{what} {folder}: wait for it, stop it, or give another folder")
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_user_of(folder: str | os.PathLike, flag: str = "--workdir") -> Iterator[None]:
    """Hold the folder's lock file; if another process holds it, raise an OmfaError.

    The lock goes with the process, however that ends. File systems without locks are let pass.
    """
    with (Path(folder) / LOCK).open("w") as file:
        lock(file, f"another run is using {folder}: stop it, or give another folder to {flag}")
        yield


def lock(file: int | IO, refusal: str) -> None:
    """Lock an open file until it is closed; OmfaError(refusal) if another process holds it."""
    is_held = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_held = True
    except OSError:
        # a file system without locks
        pass
    # not in the handler: EAGAIN is no cause that a restart might mend
    if is_held:
        raise OmfaError(refusal)


def is_used(folder: str | os.PathLike) -> bool:
    """True while a process holds the folder's lock file."""
    if not (Path(folder) / LOCK).is_file():
        return False
    try:
        with only_user_of(folder):
            return False
    except OmfaError:
        return True


def parse_json(text: str) -> Any:
    """Return what `json.loads` does; ValueError alone for what it cannot read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None


def current_umask() -> int:
    """Return the process's umask; mkstemp makes private files, published ones follow it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def require_file(path: str | os.PathLike, what: str, flag: str) -> Path:
    """Return `path` as a Path, or raise an OmfaError that names `what` and the flag to change."""
    path = Path(path)
    if path.is_file():
        return path
    came = "a folder" if path.is_dir() else "nothing"
    raise OmfaError(f"{what}: expected a file at {path}, found {came}; change {flag}")


def require_dir(path: str | os.PathLike, what: str, flag: str) -> Path:
    """Return `path` as a Path, or raise an OmfaError that names `what` and the flag to change."""
    path = Path(path)
    if path.is_dir():
        return path
    came = "a file" if path.exists() else "nothing"
    raise OmfaError(f"{what}: expected a folder at {path}, found {came}; change {flag}")


def require_writable_file(path: str | os.PathLike, flag: str) -> Path:
    """Return `path` as a Path, or raise an OmfaError unless a file could be written there.

    Nothing is made: for a check before hours of work whose result goes there.
    """
    path = Path(path)
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        raise OmfaError(f"{path} is a folder; give a file's name to {flag}")
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written in" if there.is_dir() else "is a file"
        raise OmfaError(f"cannot write {path}: {there} {reason}; give another name to {flag}")
    return path


def require_writable_dir(path: str | os.PathLike, flag: str) -> Path:
    """Create the folder if need be and prove that a file can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"omfa")
    except OSError as error:
        reason = error.strerror or error
        raise OmfaError(
            f"cannot write in {path}: {reason}; give another folder to {flag}"
        ) from None
    return path
