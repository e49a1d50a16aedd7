"""Fingerprints of many photos: hashes in memory (8 bytes each), thumbnails in a temporary file."""

import array
import tempfile
import weakref

import numpy as np
from jaxtyping import UInt8, UInt64

THUMB_SIDE_PX = 16
# a 64-bit hash and a thumbnail
Fingerprint = tuple[int, UInt8[np.ndarray, "16 16 3"]]


class FingerprintStore:
    """An append-only list of fingerprints; the temporary file is deleted with the object."""

    def __init__(self) -> None:
        self._hashes = array.array("Q")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, value: Fingerprint) -> None:
        """Append one photo's fingerprint."""
        code, thumb = value
        self._hashes.append(code)
        self._file.write(np.ascontiguousarray(thumb, np.uint8).tobytes())

    def __len__(self) -> int:
        return len(self._hashes)

    def hashes(self) -> UInt64[np.ndarray, "n"]:
        """Return the hashes in the order of insertion."""
        return np.array(self._hashes, np.uint64)

    def thumbs(self) -> UInt8[np.ndarray, "n 16 16 3"]:
        """Return the thumbnails, memory-mapped from the file."""
        self._file.flush()
        shape = (len(self), THUMB_SIDE_PX, THUMB_SIDE_PX, 3)
        return np.memmap(self._file, np.uint8, "r", shape=shape)
