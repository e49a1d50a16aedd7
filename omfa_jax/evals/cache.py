"""What was computed already: values by key, in small files beside the scores, whole or absent.

A space holds the values of one computation (a metric's choices, its weights, its versions); keys
are made of the SHA-256 of the pictures. A value is therefore found again only if everything that it
depends on is the same, whatever the files are called and in whatever order they come.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.core.archives import DAMAGE, read_arrays
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_write

Value = Float[np.ndarray, " d"]


class Space:
    """The values of one computation: read at the start, added to in chunks."""

    def __init__(self, folder: Path, identity: dict[str, Any]):
        text = json.dumps(identity, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.values: dict[str, Value] = {}
        self.fresh: dict[str, Value] = {}
        self.chunks = 0
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with path.open("rb") as file:
                    chunk = read_arrays(file)
                self.values |= dict(zip(chunk["keys"].tolist(), chunk["values"], strict=True))
            except (*DAMAGE, OSError, ValueError, KeyError) as error:
                raise OmfaError(f"{path}: damaged ({error}); remove that file") from None

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def add(self, key: str, value: Value) -> None:
        """Keep a value; it is on disk after the next `flush`."""
        self.values[key] = self.fresh[key] = value

    def flush(self) -> None:
        """Write what was added since the last time, as one file."""
        if self.fresh:
            self.chunks += 1
            with atomic_write(self.folder / f"{os.getpid()}-{self.chunks:05}.npz") as temporary:
                keys, values = list(self.fresh), list(self.fresh.values())
                np.savez(temporary, keys=np.array(keys), values=np.stack(values))
            self.fresh = {}
