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

AXES = ("slice", "data", "fsdp", "tensor")
# a batch is cut over all three: a slice is a TPU pod slice, data parallelism over the slow network
# between them; fsdp is data parallelism whose weights are sharded as well
BATCH = ("slice", "data", "fsdp")


@dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; exactly one of them may be -1 (all the devices that are left).

    `allow_replicated`: axes may leave more of the weights whole than `parallel.division` lets them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slice: int = 1
    allow_replicated: bool = False


def make_mesh(settings: MeshSettings, devices: list[Any] | None = None) -> Mesh:
    """Return the mesh over all devices (or the ones given), or say which axis does not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(settings, len(devices))
    # Explicit axes are today's default elsewhere; the step names the axes that it handles itself
    return Mesh(_arranged(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def axis_sizes(settings: MeshSettings, devices: int) -> list[int]:
    """Return the mesh's shape over so many devices, or say which axis does not fit."""
    sizes = [getattr(settings, axis) for axis in AXES]
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise OmfaError(f"mesh axes must be positive, at most one -1; got {text}")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and devices % fixed == 0:
        sizes[sizes.index(-1)] = devices // fixed
    if math.prod(sizes) != devices:
        raise OmfaError(
            f"mesh {text} does not cover the {devices} devices at hand;"
            " change config.mesh.slice, .data, .fsdp or .tensor so that their product does"
        )
    return sizes


def _arranged(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Return the devices in the mesh's shape, neighbours on a TPU's torus close to each other."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and sizes[0] != slices:
        raise OmfaError(
            f"these TPUs are {slices} slices: set config.mesh.slice={slices}, so that fsdp and"
            " tensor stay within a slice"
        )
    if devices[0].platform != "tpu":
        return np.asarray(devices, object).reshape(sizes)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (1, *sizes[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over slice, data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
    """Return over how many devices a batch is cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raise an OmfaError unless the global batch divides over the mesh and its microbatches."""
    parts = batch_parts(mesh)
    if batch_size % (parts * accumulate):
        cut = f" times {accumulate} microbatches" if accumulate > 1 else ""
        raise OmfaError(
            f"global batch {batch_size} does not divide over slice x data x fsdp = {parts}"
            f" devices{cut};"
            " change config.train.batch_size, .grad_accum_steps or config.mesh"
        )
