"""Which checkpoints of a workdir are whole, and whose fault it is when one cannot be read."""

import errno
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import parse_json
from omfa_jax.train.config_keys import update_saved_config

log = logging.getLogger(__name__)

ITEMS = ("state", "data", "config")
EMA_ITEM = "ema"
# the row of the log that belongs to a checkpoint; without it there is no best one, no more
ROW_ITEM = "row"
# Orbax writes it last
FINISHED = "_CHECKPOINT_METADATA"
# a name that nobody takes for a step
ASIDE = "aside"
# names that Orbax takes for steps
_STEP = re.compile(r"0|[1-9][0-9]*")
# what a folder from which something was lost answers; anything else is the file system's trouble
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
# OSErrors that no file system raised carry no number; these two may pass
_PASSING = (TimeoutError, ConnectionError)
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")


class Damaged(OmfaError):
    """A checkpoint that cannot be read whatever is done: lost or altered files."""


def steps_in(folder: Path) -> list[int]:
    """Return the steps that a folder of checkpoints has names for, newest first."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted((int(name) for name in names if _STEP.fullmatch(name)), reverse=True)


def newest_whole_step(folder: Path, *, warn: bool = True) -> int | None:
    """Return the newest step whose items are all there; arrays are not read.

    On a local file system Orbax takes any folder with a number for a checkpoint, an empty one
    too; a step counts here only with its finishing metadata and every item that they list.
    """
    return next(iter(whole_steps(folder, warn=warn)), None)


def whole_steps(folder: Path, *, warn: bool = True) -> list[int]:
    """Return the steps whose items are all there, newest first; warn of those newer than them."""
    whole = []
    for step in steps_in(folder):
        lack = incompleteness(folder / str(step))
        if lack is None:
            whole.append(step)
        elif warn and not whole:
            log.warning("%s; trying the one before", lack)
    return whole


def incompleteness(step_folder: Path) -> str | None:
    """Say what a step's folder lacks; None if it is whole."""
    missing = missing_of(step_folder)
    if not missing:
        return None
    return f"checkpoint {step_folder} is not whole (missing: {', '.join(missing)})"


def missing_of(step_folder: Path) -> list[str]:
    """Return what a step's folder lacks to be whole: items, Orbax's finishing metadata."""
    listed = items_listed(step_folder)
    items = [*ITEMS, *sorted(set(listed or ()) - {*ITEMS, ROW_ITEM})]
    missing = [item for item in items if not (step_folder / item).is_dir()]
    return missing if listed is not None else [*missing, FINISHED]


def items_listed(step_folder: Path) -> Collection[str] | None:
    """Return the items that a checkpoint says it holds; None where it was not finished."""
    try:
        found = parse_json((step_folder / FINISHED).read_text())
    except (OSError, ValueError) as error:
        if isinstance(blamed(error, step_folder), OSError):
            raise
        return None
    if not isinstance(found, dict):
        return None
    items = found.get("item_handlers")
    # early forms of the file list nothing
    return items if isinstance(items, dict) else ()


def read_json(step_folder: Path, item: str) -> dict[str, Any]:
    """Return one of a step's JSON items; Damaged if it is lost or no JSON object."""
    try:
        found = parse_json((step_folder / item / "metadata").read_text())
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, got {str(found)[:80]}")
    except (OSError, ValueError) as error:
        raise blamed(error, step_folder / item) from error
    return found


def read_config(step_folder: Path) -> dict[str, Any]:
    """Return the config saved in one step's folder, as plain types, with today's key names."""
    return update_saved_config(read_json(step_folder, "config"))


def blamed(error: BaseException, what: Path) -> OmfaError | OSError:
    """Return what to raise for an error met while reading `what`, part of a checkpoint.

    An OSError where the file system failed (it may answer the next time), an OmfaError where this
    machine did (no memory), and Damaged for all else.
    """
    found = os_error_of(error)
    if found is not None and (isinstance(found, _PASSING) or found.errno not in (None, *_LOST)):
        said = found.strerror or first_line(found)
        return OSError(found.errno or errno.ETIMEDOUT, f"{said}, reading checkpoint {what}")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return OmfaError(f"no memory to read checkpoint {what}: {first_line(error)}")
    return Damaged(f"checkpoint {what} is damaged: {first_line(root_of(error))}")


def os_error_of(error: BaseException) -> OSError | None:
    """Return the file system's error behind an exception; TensorStore has it in its text alone."""
    for link in chain_of(error):
        if isinstance(link, OSError):
            return link
        code = _OS_ERROR.search(str(link))
        if code:
            number = int(code[1])
            return OSError(number, f"{os.strerror(number)} ({first_line(link)})")
    return None


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an exception and those it came from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def root_of(error: BaseException) -> BaseException:
    """Return the exception at the start of a chain: what happened, not who met it."""
    return chain_of(error)[-1]


def set_aside(step_folder: Path, reason: str) -> None:
    """Rename a step's folder to a name that nobody takes for one; nothing is deleted."""
    stem = f"{ASIDE}-{step_folder.name}"
    free, number = step_folder.with_name(stem), 2
    while os.path.lexists(free):
        free, number = step_folder.with_name(f"{stem}-{number}"), number + 1
    step_folder.rename(free)
    log.warning("%s: put aside as %s, nothing of it was deleted", reason, free)


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's text, its middle cut out, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # paths fill the middle; what happened stands at the ends
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:120]} ... {lines[0][-160:]}"
