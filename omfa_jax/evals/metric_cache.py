"""A cache of metric values on disk, in small files that are written atomically next to the scores.

Each cache belongs to one computation (a metric's options, weights and library versions), and its
keys are the SHA-256 of the images. A value is reused only if everything that it depends on is the
same; file names and the order of the files do not matter.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.npz_reader import UNPACK_ERRORS, read_arrays
from omfa_jax.core.paths import AnyPath

Value = Float[np.ndarray, " d"]


class MetricCache:
    """The cached values of one computation: read at the start, appended in chunks."""

    def __init__(self, folder: AnyPath, identity: dict[str, Any]):
        text = json.dumps(identity, sort_keys=True)
        # other options, weights or versions give another folder: nothing is ever invalidated
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.values: dict[str, Value] = {}
        self.fresh: dict[str, Value] = {}
        self.chunks = 0
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with path.open("rb") as file:
                    chunk = read_arrays(file)
                self.values |= dict(zip(chunk["keys"].tolist(), chunk["values"], strict=True))
            except (*UNPACK_ERRORS, OSError, ValueError, KeyError) as error:
                raise OmfaError(f"{path}: damaged ({error}); remove that file") from None

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def add(self, key: str, value: Value) -> None:
        """Add a value; the next `flush` writes it to disk."""
        self.values[key] = self.fresh[key] = value

    def flush(self) -> None:
        """Write the values added since the last flush, as one file."""
        if self.fresh:
            self.chunks += 1
            # the process id keeps two runs that share a cache from overwriting each other
            with atomic_write(self.folder / f"{os.getpid()}-{self.chunks:05}.npz") as temporary:
                keys, values = list(self.fresh), list(self.fresh.values())
                np.savez(temporary, keys=np.array(keys), values=np.stack(values))
            self.fresh = {}
