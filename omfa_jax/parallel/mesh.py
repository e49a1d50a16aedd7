"""The device mesh: slice, data, fsdp and tensor axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from omfa_jax.core.errors import OmfaError

MESH_AXES = ("slice", "data", "fsdp", "tensor")
# axes that shard a batch: slice is data parallelism between TPU slices, over the slow network; fsdp
# is data parallelism with sharded weights
BATCH_AXES = ("slice", "data", "fsdp")


@dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; at most one of them may be -1, for all remaining devices.

    `allow_replicated`: accept axes that `mesh_resolution.resolve_mesh` rejects for replicating
    weights.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slice: int = 1
    allow_replicated: bool = False


def make_mesh(settings: MeshSettings, devices: list[Any] | None = None) -> Mesh:
    """Return the mesh over `devices` (default: all); sizes that do not fit are an OmfaError."""
    devices = jax.devices() if devices is None else devices
    sizes = resolve_axis_sizes(settings, len(devices))
    # jax.make_mesh defaults to Explicit axes; here the step's shard_map names its manual axes
    # itself
    return Mesh(
        _arrange_devices(devices, sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
    )


def resolve_axis_sizes(settings: MeshSettings, devices: int) -> list[int]:
    """Return the mesh's shape with -1 resolved; sizes that do not fit are an OmfaError."""
    sizes = [getattr(settings, axis) for axis in MESH_AXES]
    text = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise OmfaError(f"config.mesh: sizes must be positive and at most one -1; got {text}")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and devices % fixed == 0:
        sizes[sizes.index(-1)] = devices // fixed
    if math.prod(sizes) != devices:
        raise OmfaError(
            f"config.mesh: {text} does not cover the {devices} devices;"
            " change config.mesh.slice, .data, .fsdp or .tensor so that their product does"
        )
    return sizes


def _arrange_devices(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Return the devices in the mesh's shape; on TPUs so that axes follow the torus."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and sizes[0] != slices:
        raise OmfaError(
            f"the devices are {slices} TPU slices: set config.mesh.slice={slices} to keep fsdp and"
            " tensor within a slice"
        )
    if devices[0].platform != "tpu":
        # JAX lists GPUs node by node, so that the last axes stay within a node
        return np.asarray(devices, object).reshape(sizes)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (1, *sizes[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def make_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first dimension over slice, data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def make_replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def count_batch_shards(mesh: Mesh) -> int:
    """Return the number of parts that a batch is sharded into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(mesh: Mesh, batch_size: int, grad_accum_steps: int = 1) -> None:
    """Raise an OmfaError unless the mesh and the number of microbatches divide the global batch."""
    parts = count_batch_shards(mesh)
    if batch_size % (parts * grad_accum_steps):
        cut = f" times {grad_accum_steps} microbatches" if grad_accum_steps > 1 else ""
        raise OmfaError(
            f"global batch {batch_size} does not divide over slice x data x fsdp = {parts}"
            f" devices{cut};"
            " change config.train.batch_size, .grad_accum_steps or config.mesh"
        )
