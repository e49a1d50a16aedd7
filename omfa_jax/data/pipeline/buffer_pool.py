"""A pool of batch buffers, each reused once the batch in it is freed.

An image batch takes about 60 MB. Allocating and zeroing that for every batch costs as much as
filling it.
"""

import collections
import weakref
from typing import Any

import numpy as np
from jaxtyping import UInt8


class BufferPool:
    """A pool of buffers of one size; it grows to the largest number in use at once.

    Thread-safe. A pickled copy starts with its own empty pool.
    """

    def __init__(self) -> None:
        # append and pop of a deque are atomic. A lock could deadlock: finalizers run whenever the
        # garbage collector does, also in a thread that holds the lock.
        self._free: collections.deque[np.ndarray] = collections.deque()

    def acquire(self, size_bytes: int) -> UInt8[np.ndarray, "size_bytes"]:
        """Return an uninitialized buffer, which returns to the pool when its last view is freed."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = None
        if buffer is None or len(buffer) != size_bytes:
            buffer = np.empty(size_bytes, np.uint8)
        lease = _Lease(buffer)
        # numpy views keep their base alive: the lease dies with the last of them, also on devices
        # that alias host memory
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return np.asarray(lease)

    def __reduce__(self) -> tuple[Any, ...]:
        return BufferPool, ()


class _Lease:
    """The base object of every view of a buffer: it lives as long as the last view."""

    def __init__(self, buffer: np.ndarray) -> None:
        self.__array_interface__ = buffer.__array_interface__
