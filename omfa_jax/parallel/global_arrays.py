"""Conversion of each host's arrays to global arrays on the mesh, and back."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import count_batch_shards, make_batch_sharding

# key of every device batch: the example's index in the global batch, in the data's order
ROW = "row"


def get_data_shard(mesh: Mesh) -> tuple[int, int]:
    """Return (shard, shards): the part of each global batch that this process feeds.

    Processes that tensor parallelism spans share rows and feed the same part. Parts that overlap
    otherwise are an OmfaError.
    """
    shards = get_process_shards(mesh)
    return shards[jax.process_index()], max(shards.values()) + 1


@functools.lru_cache(maxsize=16)
def get_process_shards(mesh: Mesh) -> Mapping[int, int]:
    """Return the part of each global batch that each process of a mesh feeds, by process index.

    A process's devices need not be adjacent in the mesh: on a TPU slice a host has a square of the
    torus. Its examples are then scattered in the global arrays, which are not in the data's order.
    """
    rows = find_process_parts(mesh)
    parts = count_batch_shards(mesh)
    # ordered by first row, so that parts follow the order of the global batch
    distinct = sorted({tuple(sorted(found)) for found in rows.values()})
    if sum(map(len, distinct)) != parts or len({len(found) for found in distinct}) != 1:
        raise OmfaError(
            f"mesh {dict(mesh.shape)} gives its {len(rows)} processes unequal or overlapping parts"
            " of a batch; config.mesh.tensor must divide, or be a multiple of, the devices per"
            " process"
        )
    return {process: distinct.index(tuple(sorted(found))) for process, found in rows.items()}


@functools.lru_cache(maxsize=16)
def find_process_parts(mesh: Mesh) -> dict[int, set[int]]:
    """Return {process index: the parts of a batch that its devices hold}."""
    parts = count_batch_shards(mesh)
    found: dict[int, set[int]] = {}
    for device, (where,) in make_batch_sharding(mesh).devices_indices_map((parts,)).items():
        found.setdefault(device.process_index, set()).update(range(parts)[where])
    return found


def make_global_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return a batch of global arrays; every process passes its part (see `get_data_shard`).

    Adds ROW. Whatever must not depend on the mesh (random numbers, the order of results) must use
    ROW and never an example's position in the arrays.
    """
    sharding = make_batch_sharding(mesh)
    shard, shards = get_data_shard(mesh)
    count = len(next(iter(batch.values())))
    # computed, not communicated: every process feeds the same number of examples
    rows = np.arange(shard * count, (shard + 1) * count, dtype=np.int32)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, value, (shards * len(value), *value.shape[1:])
        )
        for name, value in {**batch, ROW: rows}.items()
    }


def put_global(tree: Any, shardings: Any) -> Any:
    """Return a tree of host arrays, equal on every process, as global arrays with `shardings`.

    Each process transfers only its own devices' shards. `jax.device_put` would reject shardings
    with other hosts' devices.
    """

    def put(array: np.ndarray, sharding: Any) -> jax.Array:
        full = np.asarray(array)
        return jax.make_array_from_callback(full.shape, sharding, lambda index: full[index])

    return jax.tree.map(put, tree, shardings)


def gather_to_host(tree: Any) -> Any:
    """Return numpy copies of a tree of arrays; every process must call this.

    Arrays with shards on other hosts are all-gathered.
    """

    def fetch(array):
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(fetch, tree)
