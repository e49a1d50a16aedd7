"""One number per array of a large tree, from few small programs.

A program over all arrays of a training state takes XLA long to compile: half a minute for a small
UNet, and more than in proportion for a larger one. But a state has each array several times: the
parameters, their average and their moments.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from omfa_jax.parallel.mesh import make_replicated_sharding

MAX_GROUPS = 8


def compute_per_leaf(function: Callable[[jax.Array], jax.Array], leaves: Sequence[Any]) -> Any:
    """Return `function(leaf)`, a scalar, of each array as a numpy array of shape (leaves,).

    A collective call of all processes. `function` is jitted over groups of arrays that have the
    same shapes, dtypes and shardings, so that one program serves most of them.
    """
    found: list[Any] = [None] * len(leaves)
    for group in split_into_groups([_get_kind(leaf) for leaf in leaves]):
        arrays = [leaves[index] for index in group]
        # one program at a time: on CPUs with more virtual devices than cores, programs that wait
        # for all devices at once starve each other until XLA aborts the process
        values = np.asarray(_make_program(function, _find_mesh(arrays))(arrays))
        for index, value in zip(group, values, strict=True):
            found[index] = value
    return np.asarray(found)


def split_into_groups(kinds: Sequence[Hashable]) -> list[list[int]]:
    """Return the places of `kinds` in groups; all but the last have equal kinds in equal order.

    Of up to `MAX_GROUPS` such groups, as many are made as leave the fewest arrays to compile.
    """
    places: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)

    def count_compiled(groups: int) -> int:
        return sum(len(same) // groups + len(same) % groups for same in places.values())

    groups = min(range(1, MAX_GROUPS + 1), key=count_compiled)
    dealt: list[list[int]] = [[] for _ in range(groups)]
    rest: list[int] = []
    for same in places.values():
        each = len(same) // groups
        for number, group in enumerate(dealt):
            group += same[number * each : (number + 1) * each]
        rest += same[groups * each :]
    return [group for group in (*dealt, rest) if group]


def _get_kind(leaf: Any) -> Hashable:
    return leaf.shape, str(leaf.dtype), getattr(leaf, "sharding", None)


def _find_mesh(arrays: Sequence[Any]) -> Mesh | None:
    sharding = getattr(arrays[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


@functools.cache
def _make_program(
    function: Callable[[jax.Array], jax.Array], mesh: Mesh | None
) -> Callable[[list[Any]], jax.Array]:
    def per_leaf(arrays: list[Any]) -> jax.Array:
        return jnp.stack([function(jnp.asarray(array)) for array in arrays])

    # replicated, because every process reads all of them
    return jax.jit(per_leaf, out_shardings=None if mesh is None else make_replicated_sharding(mesh))
