"""Early checks that a path can be used, with the flag to change in the error.

The functions with `any` in their name accept object storage; the others refuse it by name.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.local_paths import require_local
from omfa_jax.core.paths import AnyPath, RemotePath, to_path


def require_file(path: str | os.PathLike, what: str, flag: str) -> Path:
    """Return `path` as a Path; OmfaError naming `what` and the flag if it does not exist."""
    require_local(path, flag)
    return _require_file(Path(path), what, flag)


def require_any_file(path: str | os.PathLike, what: str, flag: str) -> AnyPath:
    """Like `require_file`, for a file that may be in object storage."""
    return _require_file(to_path(path), what, flag)


def _require_file(path: Any, what: str, flag: str) -> Any:
    if path.is_file():
        return path
    came = "a folder" if path.is_dir() else "nothing"
    raise OmfaError(f"{what}: expected a file at {path}, found {came}; change {flag}")


def require_dir(path: str | os.PathLike, what: str, flag: str) -> Path:
    """Return `path` as a Path; OmfaError naming `what` and the flag if it does not exist."""
    require_local(path, flag)
    return _require_dir(Path(path), what, flag)


def require_any_dir(path: str | os.PathLike, what: str, flag: str) -> AnyPath:
    """Like `require_dir`, for a folder that may be in object storage."""
    return _require_dir(to_path(path), what, flag)


def _require_dir(path: Any, what: str, flag: str) -> Any:
    if path.is_dir():
        return path
    came = "a file" if path.exists() else "nothing"
    raise OmfaError(f"{what}: expected a folder at {path}, found {came}; change {flag}")


def require_writable_file(path: str | os.PathLike, flag: str) -> Path:
    """Return `path` as a Path; OmfaError if a file could not be written there.

    Nothing is created: this is a check before hours of work whose result is written there.
    """
    require_local(path, flag)
    path = Path(path)
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        raise OmfaError(f"{path} is a folder; give a file name to {flag}")
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "is not writable" if there.is_dir() else "is a file"
        raise OmfaError(f"cannot write {path}: {there} {reason}; give another name to {flag}")
    return path


def require_any_writable_file(path: str | os.PathLike, flag: str) -> AnyPath:
    """Like `require_writable_file`, for a file that may be in object storage."""
    path = to_path(path)
    if isinstance(path, Path):
        return require_writable_file(path, flag)
    _require_writable_storage(path.parent, flag)
    if path.is_dir():
        raise OmfaError(f"{path} is a folder; give a file name to {flag}")
    return path


def require_writable_dir(path: str | os.PathLike, flag: str) -> Path:
    """Create the folder if necessary and check that a file can be written there."""
    require_local(path, flag)
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


def require_any_writable_dir(path: str | os.PathLike, flag: str) -> AnyPath:
    """Like `require_writable_dir`, for a folder that may be in object storage."""
    path = to_path(path)
    if isinstance(path, Path):
        return require_writable_dir(path, flag)
    _require_writable_storage(path, flag)
    return path


def _require_writable_storage(folder: RemotePath, flag: str) -> None:
    probe = folder / f".omfa-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        probe.write_bytes(b"omfa")
        probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        if isinstance(error, FileNotFoundError):
            reason = f"there is no bucket {folder.bucket}"
        raise OmfaError(
            f"cannot write in {folder}: {reason}; give another folder to {flag}"
        ) from error
