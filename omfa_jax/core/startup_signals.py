"""End at once on a signal that comes before the first step, with a line and SIGTERM's status.

Python runs its handlers between bytecodes, so one that comes in a compilation of minutes would wait
for its end, and the scheduler would kill the process first. Here a thread reads what Python's own
C handler writes to a pipe when the signal arrives.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import IO, Any

from omfa_jax.core.log_lines import format_prefix

# SIGHUP comes from a terminal or an ssh connection that ends, SIGUSR1 from Slurm's --signal
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
STATUS = 128 + signal.SIGTERM
_is_starting = False
_stop: Callable[[str], Any] | None = None
_before: dict[signal.Signals, Any] = {}
_pipe: int | None = None


def watch_startup_signals() -> None:
    """End this process on a stop signal until `end_startup`; only the main thread can do this."""
    global _is_starting, _pipe
    if _is_starting or threading.current_thread() is not threading.main_thread():
        return
    reading, _pipe = os.pipe()
    os.set_blocking(_pipe, False)
    signal.set_wakeup_fd(_pipe, warn_on_full_buffer=False)
    for number in get_stop_signals():
        _before[number] = signal.signal(number, _handle)
    _is_starting = True
    _watch_forks()
    threading.Thread(target=_wait, args=(reading,), daemon=True, name="signals").start()


@functools.cache
def _watch_forks() -> None:
    # a worker process that is ended with SIGTERM would write to this process's pipe
    os.register_at_fork(after_in_child=restore_signals)


def _handle(number: int, frame: FrameType | None) -> None:
    # the thread acts; after the start-up, and where nothing else handles it, the signal's default
    if not _is_starting:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def get_stop_signals() -> list[signal.Signals]:
    """Return the stop signals that are not ignored, as `nohup` does with SIGHUP."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def set_job_stop(stop: Callable[[str], Any] | None) -> None:
    """Set what a stop signal calls with its name instead of ending this process alone."""
    global _stop
    _stop = stop


def is_starting() -> bool:
    """Return True from `watch_startup_signals` to `end_startup`."""
    return _is_starting


def end_startup() -> None:
    """Leave the signals to whoever handles them during the steps; the main thread calls this."""
    global _is_starting, _pipe
    if not _is_starting:
        return
    _is_starting = False
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    if _pipe is not None:
        # ends the thread
        os.close(_pipe)
        _pipe = None


def restore_signals() -> None:
    """Undo `watch_startup_signals` when the command has ended, or in a forked process."""
    end_startup()
    for number, handler in _before.items():
        with contextlib.suppress(ValueError):
            signal.signal(number, handler)
    _before.clear()


def format_startup_line(name: str) -> str:
    """Return the line of a process that ends because of a signal during its start-up."""
    return f"{name} before the first step: nothing to save; run the same command to begin again"


def _wait(reading: int) -> None:
    with open(reading, "rb", buffering=0) as pipe:
        _read_signals(pipe)


def _read_signals(pipe: IO[bytes]) -> None:
    names = {int(number): number.name for number in STOP_SIGNALS}
    while content := pipe.read(64):
        # SIGINT raises KeyboardInterrupt as ever
        arrived = [names[byte] for byte in content if byte in names]
        if not _is_starting:
            return
        if arrived and _stop is not None:
            _stop(arrived[0])
        elif arrived:
            end_now(arrived[0])


def end_now(name: str) -> None:
    """Print the line and end this process and its workers."""
    with contextlib.suppress(OSError):
        line = f"{format_prefix()}omfa train: {format_startup_line(name)}"
        print(line, file=sys.stderr, flush=True)
    # os._exit leaves child processes running
    if multiprocessing := sys.modules.get("multiprocessing"):
        for child in multiprocessing.active_children():
            child.kill()
    os._exit(STATUS)
