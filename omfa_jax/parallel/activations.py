"""Where activations live: the hook that the networks call on what they compute."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omfa_jax.models import UNetConfig

ACTIVATION_AXES = {"heads": "tensor", "hidden": "tensor"}
"""Logical activation axes that are cut by the compiler; the step cuts the batch itself."""


def activation_constraint(
    mesh: Mesh,
) -> Callable[[jax.Array, tuple[str, ...]], jax.Array] | None:
    """Return `constrain(array, axis_names)` for networks in the step; None without tensor > 1.

    Without it XLA shards attention on whatever the weights suggest and rematerialises whole
    activations. A dimension that its axis does not divide stays whole, which `parallel.division`
    says before a run.
    """
    if mesh.shape["tensor"] == 1:
        return None

    def constrain(array: jax.Array, names: tuple[str, ...]) -> jax.Array:
        axes = []
        for size, name in zip(array.shape, names, strict=True):
            axis = ACTIVATION_AXES.get(name)
            axes.append(axis if axis and size % mesh.shape[axis] == 0 else None)
        # within shard_map the mesh is another: some of its axes are no longer the compiler's
        within = jax.sharding.get_abstract_mesh()
        here = mesh if within.empty else within
        return jax.lax.with_sharding_constraint(array, NamedSharding(here, PartitionSpec(*axes)))

    return constrain


def activation_sizes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the logical axes that tensor cuts, of the levels with transformers.

    `hidden`: value and gate of the feed-forward, each four times the channels.
    """
    levels = [i for i, depth in enumerate(config.transformer_depth) if depth]
    return {
        "heads": tuple(config.heads[level] for level in levels),
        "hidden": tuple(8 * config.block_channels[level] for level in levels),
    }
