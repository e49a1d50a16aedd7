"""The error of a save that failed: one line, and the cause by which a restart is decided."""

import errno
import shutil

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import RESTART, classify_error
from omfa_jax.core.paths import AnyPath, RemotePath
from omfa_jax.train.checkpoints.integrity import (
    find_newest_complete_step,
    find_os_error,
    format_error,
)


def make_save_error(folder: AnyPath, step: int | None, error: Exception) -> OmfaError:
    """Return the error to raise for a failed save into a folder of checkpoints, with its cause."""
    what = "a checkpoint" if step is None else f"checkpoint {step}"
    cause = find_os_error(error)
    try:
        newest = find_newest_complete_step(folder, warn=False)
        kept = "none is complete" if newest is None else f"the newest complete one is {newest}"
    except OSError as failed:
        kept = f"unknown ({format_error(failed)})"
    if isinstance(folder, RemotePath):
        said = f"; checkpoints: {kept} ({format_error(cause or error)})"
        # what was written a moment ago is not there: no file of the user's that a restart lacks too
        if cause is None or isinstance(cause, FileNotFoundError):
            cause = OSError(errno.EREMOTEIO, format_error(error))
    else:
        # another process that is lost is no matter of this folder
        is_passing = classify_error(error).status == RESTART
        advice = "" if is_passing else "; free some space or change --workdir"
        said = (
            f", free space: {_describe_free_space(folder)}; checkpoints: {kept}{advice}"
            f" ({format_error(error)})"
        )
    made = OmfaError(f"could not save {what} in {folder}{said}")
    made.__cause__ = cause or error
    return made


def _describe_free_space(folder: AnyPath) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB"
    except OSError as failed:
        return f"unknown ({format_error(failed)})"
