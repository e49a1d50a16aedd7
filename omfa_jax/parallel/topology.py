"""Topologies by name: `h200-16` is 16 H200, `v5litepod-256x2` two slices of 256 TPU v5e chips."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.local_paths import expand_home
from omfa_jax.parallel.hardware import CHIPS, Chip
from omfa_jax.parallel.machine_file import read_machine

GPUS_PER_NODE = 8
TPU_CHIPS_PER_HOST = 4
NAME = re.compile(r"(\w+)-(\d+)(?:x(\d+))?")

# the slices that Google rents, as chips along each axis of the torus
FLAT = [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
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


@dataclass(frozen=True)
class TpuType:
    """A generation of Google's accelerator types: `v4-32`, `v5litepod-256`.

    `chip_name` is its row of CHIPS. The number in the type counts `cores` TensorCores per chip.
    """

    chip_name: str
    cores: int
    slices: list[tuple[int, ...]]

    def count(self, shape: tuple[int, ...]) -> int:
        """Return the number in the accelerator type of a slice of this shape."""
        return self.cores * math.prod(shape)


# cloud.google.com/tpu/docs/v5p: "v5p-32 specifies a v5p TPU slice with 32 TensorCores (16 chips)",
# v4 and tpu7x alike (xpk's system_characteristics.py: tensorcores_per_chip=2); v5e and v6e have one
TPU_TYPES = {
    "v4": TpuType("v4", 2, CUBIC),
    "v5litepod": TpuType("v5e", 1, FLAT),
    "v5p": TpuType("v5p", 2, CUBIC),
    "v6e": TpuType("v6e", 1, FLAT),
    "tpu7x": TpuType("tpu7x", 2, CUBIC),
}
# MaxText's compile_topology says v5e-256 where gcloud and xpk say v5litepod-256: both count chips
ALIASES = {"v5e": "v5litepod"}


@dataclass(frozen=True)
class Topology:
    """Accelerators of one kind, to plan for or to compile for.

    `name`: as gcloud spells it, `xN` for N slices. `devices`: how many JAX counts in all; `group`:
    in one NVLink domain, node or slice. `torus`: a slice's shape in chips, () for GPUs. `own_chip`
    is a chip that is not in the hardware table.
    """

    name: str
    chip_name: str
    devices: int
    group: int
    torus: tuple[int, ...]
    own_chip: Chip | None = None

    @property
    def chip(self) -> Chip:
        """The row of the hardware table, or the chip of one's own."""
        return self.own_chip or CHIPS[self.chip_name]

    @property
    def hosts(self) -> int:
        """Number of machines, each of which runs one process."""
        if self.torus:
            # hosts of four chips; up to eight can be rented as one, but need not be
            return max(1, self.chips // TPU_CHIPS_PER_HOST)
        return max(1, self.devices // min(self.group, self.chip.gpus_per_host))

    @property
    def chips(self) -> int:
        """Number of chips, which is what is rented; of TPU7x half the devices."""
        return self.devices // self.chip.devices_per_chip

    @property
    def platform(self) -> str:
        """JAX's name of the platform: "tpu", "cuda" or "rocm"."""
        if self.torus:
            return "tpu"
        return "rocm" if self.chip.device_kind.startswith("AMD") else "cuda"

    @property
    def slices(self) -> int:
        """Number of TPU slices; 1 for GPUs, whose nodes are one network."""
        return self.devices // self.group if self.torus else 1

    @property
    def accelerator_type(self) -> str:
        """Google's name of one slice, as gcloud and xpk take it."""
        return re.sub(r"(-\d+)x\d+$", r"\1", self.name)

    def describe(self) -> str:
        """Return how many chips the name stands for, in words."""
        if not self.torus:
            groups = self.devices // self.group
            is_domain = self.own_chip is None and self.chip.gpus_per_domain > GPUS_PER_NODE
            kind = "NVLink domain" if is_domain else "node"
            gpus = "GPU" if self.devices == 1 else "GPUs"
            return f"{self.devices} {gpus} in {groups} {kind}{'s' * (groups > 1)} of {self.group}"
        chips = self.chips // self.slices
        shape = "x".join(map(str, self.torus))
        found = f"{chips} chip{'s' * (chips > 1)} ({shape})"
        cores = next(tpu.cores for tpu in TPU_TYPES.values() if tpu.chip_name == self.chip_name)
        if cores > 1:
            found += f", {cores * chips} TensorCores"
        if self.slices > 1:
            found = f"{self.slices} slices of {found}: {self.chips} chips"
        if self.devices > self.chips:
            found += f" and {self.devices} JAX devices"
        return found


def parse_topology(name: str) -> Topology:
    """Return the topology called `name`; an unknown one is an OmfaError.

    TPUs go by Google's accelerator types, `xN` for N slices: on v4, v5p and tpu7x the number counts
    TensorCores, two per chip (v4-32 is 16 chips); on v5litepod and v6e it counts chips. GPUs are
    `chip-count`. A name that ends in .json is a file that describes a machine of one's own.
    """
    if name.lower().endswith(".json"):
        found, chip = read_machine(Path(expand_home(name)))
        return Topology(
            found["name"], "", found["devices"], found["devices_per_node"], (), own_chip=chip
        )
    match = NAME.fullmatch(name)
    prefix = ALIASES.get(match[1], match[1]) if match else ""
    gpus = CHIPS.keys() - {tpu.chip_name for tpu in TPU_TYPES.values()}
    if match is None or prefix not in TPU_TYPES.keys() | gpus:
        known = [f"{kind}-8" for kind in (*TPU_TYPES, *gpus)]
        raise make_unknown_name_error(
            "topology (--topology: type-count, v5litepod-256x2 for 2 slices)", name, known
        )
    count, slices = int(match[2]), int(match[3] or 1)
    if prefix in gpus:
        return _gpus(name, prefix, count, slices)
    tpu = TPU_TYPES[prefix]
    shapes = {tpu.count(shape): shape for shape in tpu.slices}
    if count not in shapes or slices < 1:
        what = "TensorCores, two per chip" if tpu.cores == 2 else "chips"
        raise OmfaError(
            f"--topology {name}: the number in {prefix}-N counts {what}; expected one of"
            f" {', '.join(map(str, shapes))}"
        )
    suffix = f"x{slices}" if slices > 1 else ""
    devices = math.prod(shapes[count]) * CHIPS[tpu.chip_name].devices_per_chip
    return Topology(
        f"{prefix}-{count}{suffix}", tpu.chip_name, devices * slices, devices, shapes[count]
    )


def _gpus(name: str, chip: str, count: int, slices: int) -> Topology:
    """Return `count` GPUs in nodes, all of the same size."""
    node = CHIPS[chip].gpus_per_domain
    if node > GPUS_PER_NODE:
        # a rack need not be used in full: 128 GPUs are 64 of each of two racks
        host = CHIPS[chip].gpus_per_host
        sizes = [size for size in range(host, node + 1, host) if count % size == 0]
        group = count if count <= host else max(sizes, default=0)
        counts = f"{host}, 64, {node}, {2 * node}"
    else:
        group = min(count, node)
        counts = f"4, {node}, {2 * node}"
    if slices > 1 or count < 1 or not group or count % group:
        raise OmfaError(
            f"--topology {name}: expected nodes of {node} GPUs, or fewer than that in one node:"
            f" {chip}-{counts.replace(', ', f', {chip}-')}"
        )
    return Topology(name, chip, count, group, ())
