"""Memory for batches that is used again once nobody holds the batch that lay in it.

A batch of pictures is some 60 MB, which the system otherwise hands out, clears and takes back for
every one of them: as much work as filling it.
"""

import collections
import weakref
from typing import Any

import numpy as np
from jaxtyping import UInt8


class Rooms:
    """Lends pieces of memory of one size; it grows to as many as are ever held at once.

    It may be used from several threads, and pickled: a copy lends memory of its own.
    """

    def __init__(self) -> None:
        # a deque's ends are moved atomically; a lock could be asked for while it is held, as
        # memory comes back whenever the garbage collector runs
        self._free: collections.deque[np.ndarray] = collections.deque()

    def lend(self, size_bytes: int) -> UInt8[np.ndarray, "size_bytes"]:
        """Return memory with whatever lies in it; it is free when its last view is gone."""
        try:
            piece = self._free.pop()
        except IndexError:
            piece = None
        if piece is None or len(piece) != size_bytes:
            piece = np.empty(size_bytes, np.uint8)
        lent = _Lent(piece)
        weakref.finalize(lent, self._free.append, piece).atexit = False
        return np.asarray(lent)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rooms, ()


class _Lent:
    """Whoever holds a view of the memory holds this."""

    def __init__(self, piece: np.ndarray) -> None:
        self.__array_interface__ = piece.__array_interface__
