"""Orbax's threads of a save, which go on after another of them has failed."""

import threading
import time

from orbax.checkpoint._src.futures import future

# the others may wait for the one that failed
END_S = 10.0


def join_save_threads(seconds: float = END_S) -> None:
    """Wait until no thread of a save is left, for `seconds` at most.

    One that still writes while Python ends prints a traceback over the line that says what failed.
    """
    until = time.monotonic() + seconds
    for thread in threading.enumerate():
        if isinstance(thread, future._SignalingThread):
            # its own `join` waits for what the thread waits for, without a limit
            threading.Thread.join(thread, max(until - time.monotonic(), 0))
