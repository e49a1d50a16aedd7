"""What a chip can do, by its data sheet; a new chip is a new row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One accelerator as JAX sees it.

    `bf16_flops`: dense matrix products of bfloat16, FLOP/s. `memory_bytes` and `memory_rate`
    (bytes/s) of its high-bandwidth memory. `near_rate`: bytes/s that a chip receives in a gather
    from chips of its node, or along one axis (two links) of its torus; `far_rate`: from other nodes
    or slices. `device_kind`: how the name that JAX gives begins.
    """

    device_kind: str
    bf16_flops: float
    memory_bytes: float
    memory_rate: float
    near_rate: float
    far_rate: float


# NVIDIA's data sheets, NVLink one way, a 200 Gb/s (A100, A800) or 400 Gb/s adapter for each GPU;
# Google's pages on each TPU: two of its ICI ports, and its share of the data centre network
CHIPS: dict[str, Chip] = {
    "a100": Chip("NVIDIA A100", 312e12, 80e9, 2.04e12, 300e9, 25e9),
    # an A100 with slower links between chips
    "a800": Chip("NVIDIA A800", 312e12, 80e9, 2.04e12, 200e9, 25e9),
    "h100": Chip("NVIDIA H100", 989e12, 80e9, 3.35e12, 450e9, 50e9),
    "h200": Chip("NVIDIA H200", 989e12, 141e9, 4.8e12, 450e9, 50e9),
    "v4": Chip("TPU v4", 275e12, 32e9, 1.2e12, 100e9, 6.2e9),
    "v5e": Chip("TPU v5 lite", 197e12, 16e9, 0.82e12, 100e9, 3.1e9),
    "v5p": Chip("TPU v5", 459e12, 95e9, 2.77e12, 200e9, 6.2e9),
    "v6e": Chip("TPU v6 lite", 918e12, 32e9, 1.64e12, 200e9, 12.5e9),
}


def chip_of(device_kind: str) -> Chip | None:
    """Return the row of a device by its `device_kind`, the longest that fits; None if none does."""
    fitting = [chip for chip in CHIPS.values() if device_kind.startswith(chip.device_kind)]
    return max(fitting, key=lambda chip: len(chip.device_kind), default=None)
