"""Checksums of saved arrays: Orbax's files hold none, so a flipped bit would be trained on.

An array's is the sum of its words, modulo 2**32: the same on any mesh, and cheap where it lies.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from omfa_jax.parallel.mesh import replicated

# {dotted name: [sum, shape, dtype]}
Record = Mapping[str, list[Any]]

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def checksums(tree: Any) -> dict[str, list[Any]]:
    """Return the record of a tree of arrays; of several processes all must call this."""
    # JAX computes with nothing wider
    leaves = {n: leaf for n, leaf in named(tree).items() if leaf.dtype.itemsize in _WORDS}
    sums = _sums(leaves)
    return {name: [sums[name], *_form(leaf)] for name, leaf in leaves.items()}


def first_altered(tree: Any, record: Record) -> str | None:
    """Name the first array that is not what was saved; of several processes all must call this.

    Arrays that were read in another shape or dtype than they were saved in are passed over.
    """
    leaves = {n: leaf for n, leaf in named(tree).items() if _comparable(leaf, record.get(n))}
    sums = _sums(leaves)
    return next((name for name in leaves if sums[name] != record[name][0]), None)


def is_altered(array: np.ndarray, saved: list[Any] | None) -> bool:
    """Whether an array on the host differs from its line of the record; False without a line."""
    if not _comparable(array, saved):
        return False
    words = np.ascontiguousarray(array).reshape(-1).view(_WORDS[array.dtype.itemsize])
    return int(np.sum(words, dtype=np.uint32)) != saved[0]  # type: ignore[index]


def is_record(found: Any) -> bool:
    """Whether what JSON holds has the form of a `Record`."""
    return isinstance(found, dict) and all(
        isinstance(line, list)
        and [type(part) for part in line] == [int, list, str]
        and all(type(length) is int for length in line[1])
        for line in found.values()
    )


def shapes_recorded(record: Record) -> dict[str, tuple[int, ...]]:
    """Return {dotted name: shape} of a record."""
    return {name: tuple(shape) for name, (_, shape, _) in record.items()}


def named(tree: Any) -> dict[str, Any]:
    """Return {dotted name: array} of a tree, named as Orbax names them."""
    plain = ocp.tree.serialize_tree(tree, keep_empty_nodes=True)
    return {
        ".".join(path): leaf
        for path, leaf in ocp.tree.to_flat_dict(plain).items()
        if hasattr(leaf, "shape")
    }


def _sums(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Return the sum of each array, of one program for all.

    Programs of their own would each wait for all devices, many at once: on CPUs with more virtual
    devices than cores such programs starve each other until XLA ends the process.
    """
    if not leaves:
        return {}
    sharding = getattr(next(iter(leaves.values())), "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    found = np.asarray(_program(mesh)(list(leaves.values())))
    return dict(zip(leaves, map(int, found), strict=True))


@functools.cache
def _program(mesh: Mesh | None) -> Callable[[list[Any]], jax.Array]:
    def sums(arrays: list[Any]) -> jax.Array:
        return jnp.stack([_sum(jnp.asarray(array)) for array in arrays])

    # every process reads all of them
    return jax.jit(sums, out_shardings=None if mesh is None else replicated(mesh))


def _sum(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
    return jnp.sum(words, dtype=jnp.uint32)


def _form(array: Any) -> tuple[list[int], str]:
    return list(array.shape), str(array.dtype)


def _comparable(array: Any, saved: list[Any] | None) -> bool:
    return saved is not None and _form(array) == (saved[1], saved[2])
