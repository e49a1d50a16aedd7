"""TPU slices as libtpu describes them: which host has which chips of the torus.

libtpu is half a gigabyte, so the tests do without it; if it is installed, test_tpu_slices compares
these descriptions with its own.
"""

import itertools
from dataclasses import dataclass

from omfa_jax.parallel.topology import Topology

# a host has 2 x 2 chips of a layer of the torus
HOST_SIDE = 2


@dataclass(frozen=True)
class Described:
    """The attributes of a TPU device that JAX's mesh builders read."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    slice_index: int
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0


def described(topology: Topology) -> list[Described]:
    """Return a TPU topology's devices; a TPU7x chip is two of them."""
    x, y, z = (*topology.torus, 1)[:3]
    cores = topology.chip.devices_per_chip
    # a slice's hosts, along x, then y, then z
    across, up = x // HOST_SIDE, y // HOST_SIDE
    found = []
    for number in range(topology.slices):
        for cz, cy, cx, core in itertools.product(range(z), range(y), range(x), range(cores)):
            host = (cz * up + cy // HOST_SIDE) * across + cx // HOST_SIDE
            found.append(
                Described(
                    id=((cz * y + cy) * x + cx) * cores
                    + core
                    + 100_000 * (number + 1) * (topology.slices > 1),
                    process_index=number * across * up * z + host,
                    coords=(cx, cy, cz),
                    slice_index=number,
                    device_kind=topology.chip.device_kind,
                    core_on_chip=core,
                )
            )
    return found
