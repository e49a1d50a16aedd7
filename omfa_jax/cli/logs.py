"""What reaches the terminal: our lines, and of other libraries' what nobody else says."""

import logging
import sys
import threading

from omfa_jax.core.exit_status import UNFORESEEN, row_of

log = logging.getLogger(__name__)

# libraries that say at length what they do
NOISY = ("absl", "orbax", "jax", "trimesh", "numba", "OpenGL")
# libraries that log what they raise as well
TWICE = ("absl", "orbax", "asyncio", "concurrent.futures")


def set_up_logs() -> None:
    """Log our lines bare; a fault of the table is one line of ours, not a traceback a thread.

    A save that meets a full disk fails in five threads and as many tasks of Orbax's; the loop
    hears of it and says it once.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.addFilter(says_something_new)
    # absl's logger has a handler of its own once absl is imported
    for name in TWICE:
        logging.getLogger(name).addFilter(says_something_new)
    threading.excepthook = say_thread_failure
    sys.unraisablehook = say_unraisable


def says_something_new(record: logging.LogRecord) -> bool:
    """False for another library's record of an exception that the table of faults knows."""
    if record.name.split(".")[0] not in TWICE or not record.exc_info:
        return True
    error = record.exc_info[1]
    return error is None or row_of(error).status == UNFORESEEN


def say_unraisable(arguments: "sys.UnraisableHookArgs") -> None:
    """Print what nobody can catch, but for TensorStore's late answers to a save given up."""
    error = arguments.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(arguments)


def say_thread_failure(arguments: threading.ExceptHookArgs) -> None:
    """Print what ended a thread: a line for a fault of the table, else its traceback."""
    error = arguments.exc_value
    if error is None or row_of(error).status == UNFORESEEN:
        threading.__excepthook__(arguments)
        return
    name = arguments.thread.name if arguments.thread else "a thread"
    log.warning("%s: %s", name, " ".join(str(error).split())[:300])
