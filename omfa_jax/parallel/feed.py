"""From host arrays to global arrays on the mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.parallel.mesh import batch_sharding


def to_global(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return global arrays; every process gives its own slice of the batch's leading axis."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def place(tree: Any, shardings: Any) -> Any:
    """Return a tree of host arrays, the same on every process, laid out as `shardings` say.

    Each process puts only what its own devices hold; `jax.device_put` refuses other hosts' devices.
    """

    def put(array: np.ndarray, sharding: Any) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings)


def to_host(tree: Any) -> Any:
    """Return numpy copies of a tree of arrays, gathered over hosts where they are not local."""

    def fetch(array):
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(fetch, tree)
