"""Logging setup: our messages as plain lines, and no duplicates from other libraries."""

import logging
import os
import sys
import threading

from omfa_jax.core.exit_status import UNEXPECTED, classify_error
from omfa_jax.core.log_lines import PlaceFormatter

log = logging.getLogger(__name__)

# libraries with verbose info logs: only their errors are shown
VERBOSE_LIBRARIES = ("absl", "orbax", "jax", "trimesh", "numba", "OpenGL")
# libraries that log an exception as well as raising it
DUPLICATING_LIBRARIES = ("absl", "orbax", "asyncio", "concurrent.futures")


def set_up_logs() -> None:
    """Log known failures as one line instead of many tracebacks.

    Messages have no prefix, but in a job of several processes (see `core.log_lines`). A save on a
    full disk, for example, fails in five threads and five tasks of Orbax. The training loop gets
    the exception too and reports it once.
    """
    open_closed_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.addFilter(is_new_message)
        handler.setFormatter(PlaceFormatter("%(message)s"))
    # absl's logger gets its own handler when absl is imported: filter the logger as well
    for name in DUPLICATING_LIBRARIES:
        logging.getLogger(name).addFilter(is_new_message)
    threading.excepthook = log_thread_failure
    sys.unraisablehook = log_unraisable


def open_closed_streams() -> None:
    """Open the standard streams that the caller closed (`>&-`) on nothing.

    Python's are None then, and the next file that is opened would get their numbers: a library
    that prints would write into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number is this one
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def is_new_message(record: logging.LogRecord) -> bool:
    """Return False for a library's log of an exception that `core.exit_status` knows."""
    if record.name.split(".")[0] not in DUPLICATING_LIBRARIES or not record.exc_info:
        return True
    error = record.exc_info[1]
    return error is None or classify_error(error).status == UNEXPECTED


def log_unraisable(arguments: "sys.UnraisableHookArgs") -> None:
    """Print an unraisable exception, except TensorStore's after an abandoned save."""
    error = arguments.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(arguments)


def log_thread_failure(arguments: threading.ExceptHookArgs) -> None:
    """Log a thread's exception: one line if `core.exit_status` knows it, else a traceback."""
    error = arguments.exc_value
    if error is None or classify_error(error).status == UNEXPECTED:
        threading.__excepthook__(arguments)
        return
    name = arguments.thread.name if arguments.thread else "a thread"
    log.warning("%s: %s", name, " ".join(str(error).split())[:300])
