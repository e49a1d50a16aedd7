"""The parts of `staging` that differ in object storage, which has no renames, owners or disks.

The staging folder .NAME.partial is a prefix beside NAME with the same contents, and shards and
reports are uploaded to it as they are finished: a restart, on any machine, goes on with the others.
To publish, the store copies them to NAME, without a detour through this machine. The manifest is
deleted first and copied last: a reader finds the old records, none, or the new ones.
"""

import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.remote_dirs import match_name, require_own_objects
from omfa_jax.core.remote_path import RemotePath
from omfa_jax.core.storage_lock import LOCK_FOLDER

log = logging.getLogger(__name__)

_LOCK_FILES = f"{LOCK_FOLDER}/*"
_AT_ONCE = 16


def require_own_staging(folder: RemotePath, patterns: Sequence[str]) -> None:
    """Raise an OmfaError if the staging folder has objects that no build has written."""
    require_own_objects(folder, (*patterns, _LOCK_FILES))


def publish_objects(
    made: RemotePath, out: RemotePath, patterns: Sequence[str], manifest: str
) -> None:
    """Copy the records in `made` to `out`, and delete what else of records is there."""
    former = require_own_objects(out, patterns)
    names = list(made.list_tree())
    if manifest in former:
        (out / manifest).unlink(missing_ok=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        copies = [name for name in names if name != manifest]
        list(pool.map(lambda name: (made / name).copy(out / name), copies))
        gone = set(former) - set(names)
        list(pool.map(lambda name: (out / name).unlink(missing_ok=True), gone))
    (made / manifest).copy(out / manifest)


def discard_objects(folder: RemotePath, patterns: Sequence[str]) -> None:
    """Delete what builds write there; the lock's two small objects stay, and foreign ones."""
    with contextlib.suppress(FileNotFoundError):
        names = list(folder.list_tree())
        own = [name for name in names if any(match_name(name, one) for one in patterns)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda name: (folder / name).unlink(missing_ok=True), own))
        foreign = [n for n in set(names) - set(own) if not match_name(n, _LOCK_FILES)]
        if foreign:
            shown = ", ".join(sorted(foreign)[:5])
            log.warning("%s was not completely deleted: it has %s", folder, shown)


def require_free_prefix(out: RemotePath) -> None:
    """Raise an OmfaError if `out` is an object, or a bucket without a folder."""
    if not out.key:
        raise OmfaError(f"--out {out}: expected a folder in the bucket, such as {out}/records")
    if out.is_file():
        raise OmfaError(f"--out {out}: expected a folder, found an object")
