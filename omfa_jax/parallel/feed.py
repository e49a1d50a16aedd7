"""From host arrays to global arrays on the mesh."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import batch_parts, batch_sharding

# in every batch on the devices: each example's row of the global batch as the data are ordered
ROW = "row"


def data_shard(mesh: Mesh) -> tuple[int, int]:
    """Return (shard, shards): which part of each global batch this process feeds.

    Processes whose devices share rows, because tensor parallelism spans them, feed the same part.
    Parts that overlap otherwise are an OmfaError.
    """
    shards = shards_of_processes(mesh)
    return shards[jax.process_index()], max(shards.values()) + 1


@functools.lru_cache(maxsize=16)
def shards_of_processes(mesh: Mesh) -> Mapping[int, int]:
    """Return the part of each global batch that each process of a mesh feeds.

    A process's devices need not lie together in the mesh: on a TPU slice a host has a square of the
    torus. Its examples then lie apart in the global arrays, which are not in the data's order.
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
    return {process: distinct.index(tuple(sorted(found))) for process, found in rows.items()}


def to_global(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return global arrays; every process gives the part of the batch that `data_shard` names.

    They hold ROW beside what is given: whatever must not depend on where an example lies (its
    random numbers, its place in a result) goes by that, never by the place in the arrays.
    """
    sharding = batch_sharding(mesh)
    shard, shards = data_shard(mesh)
    count = len(next(iter(batch.values())))
    rows = np.arange(shard * count, (shard + 1) * count, dtype=np.int32)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, value, (shards * len(value), *value.shape[1:])
        )
        for name, value in {**batch, ROW: rows}.items()
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
