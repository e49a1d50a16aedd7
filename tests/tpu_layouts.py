"""TPU slices as libtpu describes them: which host has which chips of the torus.

libtpu is half a gigabyte, so the tests do without it; where it is installed, test_topologies holds
these descriptions against its own.
"""

import itertools
from dataclasses import dataclass

from omfa_jax.parallel.pods import Pod

# a host has 2 x 2 chips of a layer of the torus
HOST_SIDE = 2


@dataclass(frozen=True)
class Described:
    """What JAX's mesh builders ask of a TPU device."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    slice_index: int
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0


def described(pod: Pod) -> list[Described]:
    """Return a TPU pod's devices."""
    x, y, z = (*pod.torus, 1)[:3]
    # a slice's hosts, along x, then y, then z
    across, up = x // HOST_SIDE, y // HOST_SIDE
    found = []
    for number in range(pod.slices):
        for cz, cy, cx in itertools.product(range(z), range(y), range(x)):
            host = (cz * up + cy // HOST_SIDE) * across + cx // HOST_SIDE
            found.append(
                Described(
                    id=(cz * y + cy) * x + cx + 100_000 * (number + 1) * (pod.slices > 1),
                    process_index=number * across * up * z + host,
                    coords=(cx, cy, cz),
                    slice_index=number,
                    device_kind=pod.chip.device_kind,
                )
            )
    return found
