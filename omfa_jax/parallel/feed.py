"""From host arrays to global arrays on the mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import batch_parts, batch_sharding


def data_shard(mesh: Mesh) -> tuple[int, int]:
    """Return (shard, shards): which part of each global batch this process feeds.

    Processes whose devices share rows, because tensor parallelism spans them, feed the same part.
    Parts that overlap otherwise are an OmfaError.
    """
    parts = batch_parts(mesh)
    rows: dict[int, set[int]] = {}
    for device, (where,) in batch_sharding(mesh).devices_indices_map((parts,)).items():
        rows.setdefault(device.process_index, set()).update(range(parts)[where])
    distinct = sorted({tuple(sorted(found)) for found in rows.values()})
    if sum(map(len, distinct)) != parts or len({len(found) for found in distinct}) != 1:
        raise OmfaError(
            f"mesh {dict(mesh.shape)} over {len(rows)} processes gives them unequal or overlapping"
            " parts of a batch; let config.mesh.tensor divide, or be a multiple of, the devices of"
            " a process"
        )
    return distinct.index(tuple(sorted(rows[jax.process_index()]))), len(distinct)


def to_global(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return global arrays; every process gives the part of the batch that `data_shard` names."""
    sharding = batch_sharding(mesh)
    _, shards = data_shard(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, value, (shards * len(value), *value.shape[1:])
        )
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
