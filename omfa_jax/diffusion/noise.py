"""Random keys per example: functions of a seed and the example's name alone."""

import hashlib
from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Array, UInt32


def make_example_ids(names: Iterable[str]) -> UInt32[np.ndarray, "b 2"]:
    """Return the first 64 bits of the SHA-256 of each name; Python's `hash` differs per process."""
    digests = [hashlib.sha256(str(name).encode()).digest()[:8] for name in names]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2).astype(np.uint32)


def make_example_keys(root: jax.Array, ids: UInt32[Array | np.ndarray, "b 2"]) -> jax.Array:
    """Return (b,) keys; an example's key does not depend on its position in the batch."""
    # two folds of 32 bits each: in one, examples of a large set would collide
    fold = jax.random.fold_in
    return jax.vmap(lambda row: fold(fold(root, row[0]), row[1]))(ids)
