"""Sharding constraints on activations, as a hook that networks call."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omfa_jax.models import UNetConfig

ACTIVATION_AXES = {"heads": "tensor", "hidden": "tensor"}
"""Logical activation axes that the compiler shards; the step's shard_map shards the batch."""


def make_activation_constraint(
    mesh: Mesh,
) -> Callable[[jax.Array, tuple[str, ...]], jax.Array] | None:
    """Return `constrain(array, axis_names)` for networks in the step; None if tensor is 1.

    Without it XLA infers attention's sharding from the weights and rematerialises full activations.
    A dimension that its axis does not divide is replicated; `mesh_resolution.resolve_mesh` warns of
    that.
    """
    if mesh.shape["tensor"] == 1:
        return None

    def constrain(array: jax.Array, names: tuple[str, ...]) -> jax.Array:
        axes = []
        for size, name in zip(array.shape, names, strict=True):
            axis = ACTIVATION_AXES.get(name)
            # an uneven constraint would pad; heads and widths are often odd multiples
            axes.append(axis if axis and size % mesh.shape[axis] == 0 else None)
        # inside shard_map some mesh axes are manual, and a constraint must use that mesh
        within = jax.sharding.get_abstract_mesh()
        here = mesh if within.empty else within
        return jax.lax.with_sharding_constraint(array, NamedSharding(here, PartitionSpec(*axes)))

    return constrain


def get_activation_sizes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the logical axes that tensor shards, for each level with transformers.

    `hidden` is the feed-forward's value and gate together: each is four times the channels.
    """
    levels = [i for i, depth in enumerate(config.transformer_depth) if depth]
    return {
        "heads": tuple(config.heads[level] for level in levels),
        "hidden": tuple(8 * config.block_channels[level] for level in levels),
    }
