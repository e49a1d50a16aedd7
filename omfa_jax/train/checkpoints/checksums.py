"""Checksums of saved arrays. Orbax stores none, so a flipped bit would go unnoticed.

An array's checksum is the sum of its words modulo 2**32: independent of the sharding, and cheap to
compute on the devices that hold it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from omfa_jax.train.checkpoints.leaf_groups import compute_per_leaf

# {dotted name: [sum, shape, dtype]}
Record = Mapping[str, list[Any]]

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def compute_checksums(tree: Any) -> dict[str, list[Any]]:
    """Return the record of a tree of arrays; a collective call of all processes."""
    # JAX without x64 cannot sum wider types
    leaves = {n: leaf for n, leaf in flatten_names(tree).items() if leaf.dtype.itemsize in _WORDS}
    sums = _sums(leaves)
    return {name: [sums[name], *_form(leaf)] for name, leaf in leaves.items()}


def find_altered(tree: Any, record: Record) -> str | None:
    """Return the name of the first array that differs from the record; a collective call.

    Arrays whose shape or dtype differs from the saved one are skipped.
    """
    leaves = {
        n: leaf for n, leaf in flatten_names(tree).items() if _is_comparable(leaf, record.get(n))
    }
    sums = _sums(leaves)
    return next((name for name in leaves if sums[name] != record[name][0]), None)


def is_altered(array: np.ndarray, saved: list[Any] | None) -> bool:
    """Return whether a host array differs from its entry in the record; False without one."""
    if not _is_comparable(array, saved):
        return False
    words = np.ascontiguousarray(array).reshape(-1).view(_WORDS[array.dtype.itemsize])
    return int(np.sum(words, dtype=np.uint32)) != saved[0]  # type: ignore[index]


def is_record(found: Any) -> bool:
    """Return whether a JSON value has the form of a `Record`."""
    return isinstance(found, dict) and all(
        isinstance(line, list)
        and [type(part) for part in line] == [int, list, str]
        and all(type(length) is int for length in line[1])
        for line in found.values()
    )


def get_recorded_shapes(record: Record) -> dict[str, tuple[int, ...]]:
    """Return {dotted name: shape} of a record."""
    return {name: tuple(shape) for name, (_, shape, _) in record.items()}


def flatten_names(tree: Any) -> dict[str, Any]:
    """Return {dotted name: array} of a tree, named as Orbax names them."""
    plain = ocp.tree.serialize_tree(tree, keep_empty_nodes=True)
    return {
        ".".join(path): leaf
        for path, leaf in ocp.tree.to_flat_dict(plain).items()
        if hasattr(leaf, "shape")
    }


def _sums(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Return the sum of each array."""
    return dict(zip(leaves, map(int, compute_per_leaf(_sum, list(leaves.values()))), strict=True))


def _sum(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
    return jnp.sum(words, dtype=jnp.uint32)


def _form(array: Any) -> tuple[list[int], str]:
    return list(array.shape), str(array.dtype)


def _is_comparable(array: Any, saved: list[Any] | None) -> bool:
    return saved is not None and _form(array) == (saved[1], saved[2])
