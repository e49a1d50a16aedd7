"""What a chip can do, by its data sheet; a new chip is a new row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One accelerator as JAX sees it.

    `bf16_flops`: dense matrix products of bfloat16, FLOP/s. `memory_bytes` and `memory_rate`
    (bytes/s) of its high-bandwidth memory. `device_kind`: how the name that JAX gives begins.
    """

    device_kind: str
    bf16_flops: float
    memory_bytes: float
    memory_rate: float


CHIPS: dict[str, Chip] = {
    "a100": Chip("NVIDIA A100", 312e12, 80e9, 2.04e12),
    # an A100 with slower links between chips
    "a800": Chip("NVIDIA A800", 312e12, 80e9, 2.04e12),
    "h100": Chip("NVIDIA H100", 989e12, 80e9, 3.35e12),
    "h200": Chip("NVIDIA H200", 989e12, 141e9, 4.8e12),
    "v4": Chip("TPU v4", 275e12, 32e9, 1.2e12),
    "v5e": Chip("TPU v5 lite", 197e12, 16e9, 0.82e12),
    "v5p": Chip("TPU v5", 459e12, 95e9, 2.77e12),
    "v6e": Chip("TPU v6 lite", 918e12, 32e9, 1.64e12),
}


def chip_of(device_kind: str) -> Chip | None:
    """Return the row of a device by its `device_kind`, the longest that fits; None if none does."""
    fitting = [chip for chip in CHIPS.values() if device_kind.startswith(chip.device_kind)]
    return max(fitting, key=lambda chip: len(chip.device_kind), default=None)
