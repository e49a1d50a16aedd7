"""What a device can do by its data sheet, as a roofline needs it."""

from dataclasses import dataclass

from omfa_jax.parallel.topology import Topology


@dataclass(frozen=True)
class Machine:
    """What a device can do: FLOP/s of products by element type, bytes/s of memory and network.

    `float32_shares` are float32's FLOP/s over `bf16_flops` at default and at highest precision.
    `near` and `far` are received bytes/s within a group of `group` devices and beyond it.
    """

    bf16_flops: float
    memory_bandwidth: float
    float32_shares: tuple[float, float] = (1.0, 1.0)
    near: float = float("inf")
    far: float = float("inf")
    group: int = 1

    def get_flops(self, dtype: str, precision: str) -> float:
        """Return the FLOP/s of products of an element type."""
        if dtype in ("f32", "f64"):
            return self.bf16_flops * self.float32_shares[precision in ("high", "highest")]
        return self.bf16_flops

    def get_network(self, devices: int) -> float:
        """Return the bytes/s that a device receives in a collective of so many devices."""
        return self.near if devices <= self.group else self.far


def make_machine(topology: Topology) -> Machine:
    """Return the machine of the hardware table's row.

    Float32: a TPU's matrix unit rounds to bfloat16 by default and takes six passes at highest
    precision; a GPU multiplies as TF32 at half of bfloat16's rate by default, and on its other
    cores, at about a sixteenth, at highest precision (NVIDIA's data sheets).
    """
    chip = topology.chip
    return Machine(
        chip.bf16_flops,
        chip.memory_bandwidth,
        (1.0, 1 / 6) if topology.platform == "tpu" else (0.5, 1 / 16),
        chip.intra_node_bandwidth,
        chip.inter_node_bandwidth,
        topology.group,
    )
