"""A function over many things in several processes, in order, with few of them in flight."""

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

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def in_order(
    make: Callable[[Thing], Made], things: Iterable[Thing], processes: int
) -> Iterator[Made]:
    """Yield what the picklable `make` makes of each thing, in the things' order.

    Two things per process are in flight at most, so memory does not grow with their number. Raises
    OmfaError if a worker dies, or for less than one process.
    """
    if processes < 1:
        raise OmfaError(f"--processes: expected 1 or more, got {processes}")
    if processes == 1:
        yield from map(make, things)
        return
    # forking a program that runs threads can hang it, so workers start afresh
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, end_with_parent) as pool:
        rest = iter(things)
        flying = collections.deque(
            pool.submit(make, thing) for thing in itertools.islice(rest, 2 * processes)
        )
        try:
            while flying:
                yield flying.popleft().result()
                flying.extend(pool.submit(make, thing) for thing in itertools.islice(rest, 1))
        except BrokenProcessPool:
            hint = "a script must guard its main part with if __name__ == '__main__'"
            raise OmfaError(
                f"a worker process died: out of memory (give less to --processes), or {hint}"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """End this worker when its parent is killed; the pool's workers would wait for ever."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
