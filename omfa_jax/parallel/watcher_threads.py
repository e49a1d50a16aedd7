"""Threads that talk to the coordination service, and end before Python does.

A thread that returns from jaxlib while Python shuts down is ended inside C++ frames that must not
be left that way, which aborts the process (status 134) although its work is done.
"""

import atexit
import threading
from collections.abc import Callable
from typing import Any

from jax._src import api

# the longest wait for one thread: a call that is under way when the service ends fails at once
END_S = 10.0
_threads: list[threading.Thread] = []
_ending = threading.Event()


def start_watcher(work: Callable[..., None], *arguments: Any, name: str) -> None:
    """Run `work(*arguments)` in a daemon thread; it must use `wait` to wait and to know its end."""
    if not _threads:
        # Handlers run last to first. JAX's waits for the other processes, which are watched until
        # then, so the threads end after it.
        atexit.unregister(api.clean_up)
        atexit.register(_end_watchers)
        atexit.register(api.clean_up)
    thread = threading.Thread(target=work, args=arguments, daemon=True, name=name)
    _threads.append(thread)
    thread.start()


def wait(seconds: float) -> bool:
    """Wait; return True as soon as this process ends, on which the caller must return."""
    return _ending.wait(seconds)


def _end_watchers() -> None:
    _ending.set()
    for thread in _threads:
        thread.join(END_S)
