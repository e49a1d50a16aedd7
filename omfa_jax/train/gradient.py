"""Loss and gradient over the mesh; each device has rows of the batch and shards of the weights."""

from collections.abc import Callable, Container, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from omfa_jax.parallel.mesh import BATCH_AXES, MESH_AXES, count_batch_shards
from omfa_jax.train.objective import DeviceBatch, Objective

# scalars, but for NONFINITE: 1 for each part of the batch whose loss is not finite
Metrics = dict[str, Float[Array, "..."]]
NONFINITE = "nonfinite_parts"
# (params, constants, batch with ROW, root key, step) -> mean loss, metrics, gradient
Gradient = Callable[
    [Any, Any, DeviceBatch, jax.Array, Array], tuple[Float[Array, ""], Metrics, Any]
]


def make_sharded_gradient(
    objective: Objective, param_shardings: Any, mesh: Mesh, grad_accum_steps: int = 1
) -> Gradient:
    """Return the gradient of an objective's mean over a global batch, sharded like the parameters.

    The batch axes are manual: a device computes on its rows, layers all-gather the weights that are
    sharded over fsdp (`parallel.fsdp`), and gradients are summed once per step, after the last of
    `grad_accum_steps` microbatches. The tensor axis is left to the compiler.
    """
    parts = count_batch_shards(mesh)
    batch_axes, manual = get_manual_axes(mesh)
    specs = get_manual_specs(param_shardings, manual)

    def on_device(params: Any, constants: Any, batch: DeviceBatch, root: Array, step: Array):
        def gradient(rows: DeviceBatch):
            return jax.value_and_grad(objective, has_aux=True)(params, constants, rows, root, step)

        (value, sums), grads = accumulate_gradient(
            gradient, split_microbatches(batch, grad_accum_steps)
        )

        # after the last microbatch, so that this traffic does not grow with accumulation
        def over_devices(leaf: Array, spec: PartitionSpec) -> Array:
            # the transpose of a layer's all-gather has summed over the weight's own axis already
            rest = tuple(axis for axis in batch_axes if axis not in spec)
            return jax.lax.psum(leaf, rest) / (parts * grad_accum_steps)

        # sums and counts before the division: shards have different numbers of a task's examples
        sums = jax.lax.psum(sums, batch_axes)
        metrics = {name: total / count for name, (total, count) in sums.items()}
        # which part of the batch had it, for the message: a mean tells that one of them had
        flag = ~jnp.isfinite(value)
        here = jax.lax.axis_index(batch_axes) if batch_axes else 0
        flags = jnp.zeros(parts).at[here].set(flag)
        value, metrics[NONFINITE] = jax.lax.psum((value, flags), batch_axes)
        value /= parts * grad_accum_steps
        return value, metrics, jax.tree.map(over_devices, grads, specs)

    if not manual:
        return on_device
    whole = PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(specs, whole, PartitionSpec(batch_axes), whole, whole),
        out_specs=(whole, whole, specs),
        axis_names=manual,
        check_vma=False,
    )


def split_microbatches(batch: DeviceBatch, count: int) -> DeviceBatch:
    """Return a batch with a leading axis of `count` microbatches, each of every count-th row."""

    def cut(array: Array) -> Array:
        rows = array.reshape(array.shape[0] // count, count, *array.shape[1:])
        return rows.swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def accumulate_gradient(gradient: Callable[[DeviceBatch], Any], parts: DeviceBatch) -> Any:
    """Return the sum of `gradient` over microbatches, one after the other in the memory of one."""
    first = jax.tree.map(lambda array: array[0], parts)
    # nothing to sum: a scan would only add the gradient to a tree of zeros
    if next(iter(parts.values())).shape[0] == 1:
        return gradient(first)
    shapes = jax.eval_shape(gradient, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, part: Mapping[str, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(part)), None

    return jax.lax.scan(add, zeros, parts)[0]


def get_manual_axes(mesh: Mesh) -> tuple[tuple[str, ...], set[str]]:
    """Return (axes that shard the batch, axes that are manual in a `shard_map` over the mesh).

    Batch axes of size 1 are left out: XLA refuses sums over them next to an automatic axis.
    """
    batch_axes = tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1)
    return batch_axes, set(MESH_AXES) if mesh.shape["tensor"] == 1 else set(batch_axes)


def get_manual_specs(shardings: Any, axes: Container[str]) -> Any:
    """Return a tree's specs within a `shard_map` whose manual axes are `axes`."""

    def only(sharding: NamedSharding) -> PartitionSpec:
        return PartitionSpec(*(axis if axis in axes else None for axis in sharding.spec))

    return jax.tree.map(only, shardings)
