"""What a mounted folder must be able to do for a workdir: rename folders, and lock files.

A finished checkpoint is a folder that was renamed. gcsfuse refuses to rename folders on buckets
without hierarchical namespaces unless `--rename-dir-limit` is raised, and then renames their files
one after another; Lustre locks only where it is mounted with `flock`, NFS only with a lock daemon.
"""

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.mounts import find_file_system

log = logging.getLogger(__name__)

# that renames a folder file by file
_GCSFUSE = "gcsfuse"


def check_mount(folder: Path, flag: str) -> None:
    """Raise an OmfaError if folders cannot be renamed in `folder`; warn of what else is missing."""
    kind = find_file_system(folder)
    with tempfile.TemporaryDirectory(prefix=".omfa-", dir=folder) as temporary:
        _check_rename(Path(temporary), folder, flag, kind)
        if not _can_lock(Path(temporary) / "lock"):
            log.warning(
                "%s (%s) has no locks: two runs in one folder would not notice each other; mount"
                " Lustre with -o flock, NFS with its lock daemon, or give gs:// to %s",
                *(folder, kind or "its file system", flag),
            )
    if _GCSFUSE in kind:
        log.warning(
            "%s is mounted with gcsfuse, which renames a folder file by file unless the bucket has"
            " hierarchical namespaces: a kill meanwhile costs that checkpoint, and the run goes on"
            " from the one before; %s=gs://... needs no mount",
            *(folder, flag),
        )


def _check_rename(temporary: Path, folder: Path, flag: str, kind: str) -> None:
    before, after = temporary / "before", temporary / "after"
    before.mkdir()
    (before / "file").write_bytes(b"omfa")
    try:
        os.rename(before, after)
        if before.exists() or (after / "file").read_bytes() != b"omfa":
            raise OSError(errno.EIO, "its content did not come along")
    except OSError as error:
        advice = "give gs:// or another folder"
        if _GCSFUSE in kind:
            advice = "mount with --rename-dir-limit=100000, or give gs://BUCKET/..."
        raise OmfaError(
            f"a folder cannot be renamed in {folder} ({error.strerror or error}), which ends every"
            f" save: {advice} to {flag}"
        ) from error


def _can_lock(file: Path) -> bool:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
