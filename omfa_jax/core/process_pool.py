"""An ordered map over several processes with a bounded number of items in flight."""

import collections
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from omfa_jax.core.errors import OmfaError

Item = TypeVar("Item")
RunResult = TypeVar("RunResult")


def ordered_map(
    make: Callable[[Item], RunResult], things: Iterable[Item], processes: int
) -> Iterator[RunResult]:
    """Yield `make(thing)` for each thing, in order; `make` must be picklable.

    At most two things per process are in flight, so memory does not grow with the number of things.
    OmfaError if a worker dies or if `processes` is less than 1.
    """
    if processes < 1:
        raise OmfaError(f"--processes: expected 1 or more, got {processes}")
    if processes == 1:
        yield from map(make, things)
        return
    # forking a process that has threads can deadlock, so workers are spawned
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, exit_with_parent) as pool:
        rest = iter(things)
        flying = collections.deque(
            pool.submit(make, thing) for thing in itertools.islice(rest, 2 * processes)
        )
        try:
            while flying:
                yield flying.popleft().result()
                flying.extend(pool.submit(make, thing) for thing in itertools.islice(rest, 1))
        except BrokenProcessPool:
            hint = "a script must guard its entry point with if __name__ == '__main__'"
            raise OmfaError(
                f"a worker process died: it ran out of memory (lower --processes), or {hint}"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def exit_with_parent() -> None:
    """Exit this worker when its parent is killed; a pool's workers would wait forever."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
