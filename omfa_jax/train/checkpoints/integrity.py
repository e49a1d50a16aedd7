"""Which checkpoints of a workdir are complete, and why one cannot be read."""

import errno
import logging
import os
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath, RemotePath
from omfa_jax.core.remote_dirs import move_remote
from omfa_jax.core.storage_errors import find_storage_error
from omfa_jax.train.config_keys import update_saved_config

log = logging.getLogger(__name__)

RunResult = TypeVar("RunResult")

ITEMS = ("state", "data", "config")
EMA_ITEM = "ema"
# the checkpoint's row of the log; a checkpoint without it is complete but never the best
ROW_ITEM = "row"
# Orbax writes this file last on a file system; in object storage first, and the other one last
FINISHED, COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"
# prefix of renamed steps, which neither Orbax nor this package counts
ASIDE_PREFIX = "aside"
# folder names that Orbax counts as steps
_STEP = re.compile(r"0|[1-9][0-9]*")
# errors that mean lost files; any other is a failure of the file system, which may be temporary
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
# an OSError without an errno was raised by a library; these two may be temporary too
_PASSING = (TimeoutError, ConnectionError)
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")


class DamagedCheckpointError(OmfaError):
    """A checkpoint that no retry can read: files are missing or altered."""


def list_steps(folder: AnyPath) -> list[int]:
    """Return the steps that a checkpoint folder lists by name, newest first.

    In object storage only committed ones: a save that is under way or was cut short has the name of
    a step, where a file system has the name of a temporary folder.
    """
    found = _list_names(folder)
    if not isinstance(folder, RemotePath):
        return found
    marked = _map(lambda step: (folder / str(step) / COMMITTED).is_file(), found, folder)
    return [step for step, is_whole in zip(found, marked, strict=True) if is_whole]


def list_uncommitted(folder: RemotePath) -> list[int]:
    """Return the steps in object storage whose save was never committed, newest first."""
    return sorted(set(_list_names(folder)) - set(list_steps(folder)), reverse=True)


def _map(
    function: Callable[[int], RunResult], steps: list[int], folder: AnyPath
) -> list[RunResult]:
    if not isinstance(folder, RemotePath):
        return list(map(function, steps))
    # a run may keep hundreds of steps, and a request takes some fifty milliseconds
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, steps))


def _list_names(folder: AnyPath) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((int(name) for name in names if _STEP.fullmatch(name)), reverse=True)


def find_newest_complete_step(folder: AnyPath, *, warn: bool = True) -> int | None:
    """Return the newest complete step, without reading its arrays.

    On a local file system Orbax counts any folder named by a number as a checkpoint, even an empty
    one. Here a step needs its final metadata file and every item that this file lists.
    """
    return next(iter(list_complete_steps(folder, warn=warn)), None)


def list_complete_steps(folder: AnyPath, *, warn: bool = True) -> list[int]:
    """Return the complete steps, newest first; warn of incomplete ones that are newer."""
    whole, steps = [], list_steps(folder)
    lacks = _map(lambda step: describe_missing(folder / str(step)), steps, folder)
    for step, lack in zip(steps, lacks, strict=True):
        if lack is None:
            whole.append(step)
        elif warn and not whole:
            log.warning("%s; trying the previous one", lack)
    return whole


def describe_missing(step_folder: AnyPath) -> str | None:
    """Return a sentence on what is missing in a step's folder; None if it is complete."""
    missing = list_missing(step_folder)
    if not missing:
        return None
    return f"checkpoint {step_folder} is incomplete (missing: {', '.join(missing)})"


def list_missing(step_folder: AnyPath) -> list[str]:
    """Return what is missing in a step's folder: items, or Orbax's final metadata file."""
    listed = read_items(step_folder)
    items = [*ITEMS, *sorted(set(listed or ()) - {*ITEMS, ROW_ITEM})]
    if isinstance(step_folder, RemotePath):
        # one listing, instead of one request for each item
        try:
            there = dict(step_folder.list_sizes())
        except FileNotFoundError:
            there = {}
        missing = [item for item in items if there.get(item, 0) is not None]
        missing += [COMMITTED] if COMMITTED not in there else []
    else:
        missing = [item for item in items if not (step_folder / item).is_dir()]
    return missing if listed is not None else [*missing, FINISHED]


def read_items(step_folder: AnyPath) -> Collection[str] | None:
    """Return the items that a checkpoint's metadata lists; None if it was never finished."""
    try:
        found = parse_json((step_folder / FINISHED).read_text())
    except (OSError, ValueError) as error:
        if isinstance(convert_error(error, step_folder), OSError):
            raise
        return None
    if not isinstance(found, dict):
        return None
    items = found.get("item_handlers")
    # early versions of the file have no list
    return items if isinstance(items, dict) else ()


def was_ended(step_folder: AnyPath) -> bool:
    """Return True if Orbax had written all of a step: the time of its commit is noted last."""
    try:
        found = parse_json((step_folder / FINISHED).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(found, dict) and bool(found.get("commit_timestamp_nsecs"))


def read_json(step_folder: AnyPath, item: str) -> dict[str, Any]:
    """Return a step's JSON item; DamagedCheckpointError if it is missing or not an object."""
    try:
        found = parse_json((step_folder / item / "metadata").read_text())
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, got {str(found)[:80]}")
    except (OSError, ValueError) as error:
        raise convert_error(error, step_folder / item) from error
    return found


def read_config(step_folder: AnyPath) -> dict[str, Any]:
    """Return the config saved in one step's folder, as plain types, with today's key names."""
    return update_saved_config(read_json(step_folder, "config"))


def convert_error(error: BaseException, what: AnyPath) -> OmfaError | OSError:
    """Return the exception to raise for an error while reading `what`, part of a checkpoint.

    An OSError if the file system failed (a retry may succeed), an OmfaError if this machine ran out
    of memory, and DamagedCheckpointError otherwise.
    """
    found = find_os_error(error)
    if found is not None and (isinstance(found, _PASSING) or found.errno not in (None, *_LOST)):
        said = found.strerror or format_error(found)
        return OSError(found.errno or errno.ETIMEDOUT, f"{said}, reading checkpoint {what}")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return OmfaError(f"no memory to read checkpoint {what}: {format_error(error)}")
    return DamagedCheckpointError(
        f"checkpoint {what} is damaged: {format_error(find_root_cause(error))}"
    )


def find_os_error(error: BaseException) -> OSError | None:
    """Return the OSError behind an exception; TensorStore has it only in its message.

    For an error of a client of object storage it is one with the errno of the same kind of fault.
    """
    for link in list_causes(error):
        if isinstance(link, OSError):
            return find_storage_error(link) or link
        code = _OS_ERROR.search(str(link))
        if code:
            number = int(code[1])
            return OSError(number, f"{os.strerror(number)} ({format_error(link)})")
        if found := find_storage_error(link):
            return found
    return None


def list_causes(error: BaseException) -> list[BaseException]:
    """Return an exception followed by its causes."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def find_root_cause(error: BaseException) -> BaseException:
    """Return the first exception of a chain: the original error."""
    return list_causes(error)[-1]


def rename_damaged(step_folder: AnyPath, reason: str) -> None:
    """Rename a step's folder so that it no longer counts as a step; nothing is deleted."""
    stem = f"{ASIDE_PREFIX}-{step_folder.name}"
    free, number = step_folder.with_name(stem), 2
    while free.exists() or free.is_symlink():
        free, number = step_folder.with_name(f"{stem}-{number}"), number + 1
    if isinstance(step_folder, RemotePath):
        move_remote(step_folder, RemotePath(free), COMMITTED)
    else:
        step_folder.rename(free)
    log.warning("%s: renamed to %s; nothing was deleted", reason, free)


def format_error(error: BaseException) -> str:
    """Return the first line of an exception's message, shortened, or its type's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # long messages have paths in the middle; the error itself is at the ends
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:120]} ... {lines[0][-160:]}"
