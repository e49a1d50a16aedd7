"""Files that are whole or absent, and early checks that a path can be used."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omfa_jax.core.errors import OmfaError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only if the block succeeds.

    Readers therefore never meet a half-written file. The temporary file keeps the suffix of
    `path`, because writers such as Pillow and numpy choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; published ones follow the user's umask
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise OmfaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise OmfaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
