"""Where activations live: the hook that the networks call on what they compute."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omfa_jax.parallel.mesh import BATCH

ACTIVATION_AXES = {"batch": BATCH, "heads": "tensor", "hidden": "tensor"}
"""Logical activation axes that are cut; every other one is whole."""


def activation_constraint(mesh: Mesh) -> Callable[[jax.Array, tuple[str, ...]], jax.Array]:
    """Return `constrain(array, axis_names)` for the networks.

    Without it XLA shards attention on whatever the weights suggest and rematerialises whole
    activations. An axis that does not divide its dimension stays whole.
    """

    def constrain(array: jax.Array, names: tuple[str, ...]) -> jax.Array:
        axes = []
        for size, name in zip(array.shape, names, strict=True):
            axis = ACTIVATION_AXES.get(name)
            parts = 1
            for part in (axis,) if isinstance(axis, str) else (axis or ()):
                parts *= mesh.shape[part]
            axes.append(axis if size % parts == 0 else None)
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(*axes)))

    return constrain
