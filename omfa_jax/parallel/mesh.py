"""The device mesh: data, fsdp and tensor axes."""

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from omfa_jax.core.errors import OmfaError

AXES = ("data", "fsdp", "tensor")
# a batch is cut over both: fsdp is data parallelism whose weights are sharded as well
BATCH = ("data", "fsdp")


@dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; exactly one of them may be -1 (all the devices that are left)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(settings: MeshSettings, devices: list[Any] | None = None) -> Mesh:
    """Return the mesh over all devices (or the ones given), or say which axis does not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = [settings.data, settings.fsdp, settings.tensor]
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise OmfaError(f"mesh axes must be positive, at most one -1; got {text}")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if math.prod(sizes) != len(devices):
        raise OmfaError(
            f"mesh {text} does not cover the {len(devices)} devices at hand;"
            " change config.mesh.data, .fsdp or .tensor so that their product does"
        )
    # make_mesh's own default is Explicit axes; the step relies on the compiler's propagation
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raise an OmfaError unless the global batch divides over the mesh and its microbatches."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH)
    if batch_size % (parts * accumulate):
        cut = f" times {accumulate} microbatches" if accumulate > 1 else ""
        raise OmfaError(
            f"global batch {batch_size} does not divide over data x fsdp = {parts} devices{cut};"
            " change config.train.batch_size, .accumulate or config.mesh"
        )
