"""Named machines to plan for: `h200-16` is 16 H200, `v5e-256x2` two slices of 256 v5e chips."""

import math
import re
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.parallel.hardware import CHIPS, Chip

GPUS_A_NODE = 8
NAME = re.compile(r"(\w+)-(\d+)(?:x(\d+))?")

# the slices that Google rents, as (chips along each axis of the torus)
FLAT = [(2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
CUBIC = [
    (2, 2, 1),
    (2, 2, 2),
    (2, 2, 4),
    (2, 4, 4),
    (4, 4, 4),
    (4, 4, 8),
    (4, 8, 8),
    (8, 8, 8),
    (8, 8, 16),
    (8, 16, 16),
    (16, 16, 16),
]
SLICES = {"v4": CUBIC, "v5p": CUBIC, "v5e": FLAT, "v6e": FLAT}


@dataclass(frozen=True)
class Pod:
    """A machine of one kind of chip.

    `group`: how many chips one node, or one slice, holds. `torus`: a slice's shape, () for GPUs.
    """

    name: str
    chip_name: str
    chips: int
    group: int
    torus: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """The hardware table's row."""
        return CHIPS[self.chip_name]

    @property
    def platform(self) -> str:
        """As JAX names it: "tpu" or "cuda"."""
        return "tpu" if self.torus else "cuda"

    @property
    def slices(self) -> int:
        """How many TPU slices; 1 for GPUs, whose nodes are one network."""
        return self.chips // self.group if self.torus else 1


def pod(name: str) -> Pod:
    """Return the machine called `name`: chip, number of chips, and for TPUs `x` slices.

    Numbers count chips, for v4 and v5p too (Google's v4-32 has 32 cores, 16 chips: `v4-16` here).
    """
    match = NAME.fullmatch(name)
    if match is None or match[1] not in CHIPS:
        known = [f"{chip}-8" for chip in CHIPS]
        raise unknown("machine (--topology: chip-count, v5e-256x2 for two slices)", name, known)
    chip, count, slices = match[1], int(match[2]), int(match[3] or 1)
    if chip not in SLICES:
        group = min(count, GPUS_A_NODE)
        if slices > 1 or count < 1 or count % group:
            raise OmfaError(
                f"--topology {name}: GPUs come in nodes of {GPUS_A_NODE}, or fewer than that in one"
                f" node: {chip}-4, {chip}-{GPUS_A_NODE}, {chip}-{2 * GPUS_A_NODE}"
            )
        return Pod(name, chip, count, group, ())
    shapes = {math.prod(shape): shape for shape in SLICES[chip]}
    if count not in shapes or slices < 1:
        raise OmfaError(
            f"--topology {name}: a slice of {chip} has {', '.join(map(str, shapes))} chips"
        )
    return Pod(name, chip, count * slices, count, shapes[count])
