"""What a chip can do, by its data sheet; a new chip is a new row."""

from dataclasses import dataclass, replace

USABLE = 0.92
"""Of a chip's memory, what programs get: `parallel.flags` asks JAX for it, `omfa plan` plans with
it. The rest is the driver's and the collectives' own."""


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
    "a100": Chip("NVIDIA A100", 312e12, 85.1e9, 2.04e12, 300e9, 25e9),
    # an A100 with slower links between chips
    "a800": Chip("NVIDIA A800", 312e12, 85.1e9, 2.04e12, 200e9, 25e9),
    "h100": Chip("NVIDIA H100", 989e12, 85.0e9, 3.35e12, 450e9, 50e9),
    "h200": Chip("NVIDIA H200", 989e12, 151.4e9, 4.8e12, 450e9, 50e9),
    "v4": Chip("TPU v4", 275e12, 32 * 2**30, 1.2e12, 100e9, 6.2e9),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * 2**30, 0.82e12, 100e9, 3.1e9),
    "v5p": Chip("TPU v5", 459e12, 95 * 2**30, 2.77e12, 200e9, 6.2e9),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * 2**30, 1.64e12, 200e9, 12.5e9),
}


def chip_of(device_kind: str) -> Chip | None:
    """Return the row of a device by its `device_kind`, the longest that fits; None if none does."""
    fitting = [chip for chip in CHIPS.values() if device_kind.startswith(chip.device_kind)]
    return max(fitting, key=lambda chip: len(chip.device_kind), default=None)


@dataclass(frozen=True)
class GpuTarget:
    """What XLA's GPU compiler asks of a device that is not here (its GpuTargetConfigProto)."""

    name: str
    capability: int
    cores: int
    fpus_a_core: int
    shared_memory_a_core: int
    shared_memory_a_block: int
    cache_bytes: int
    clock_ghz: float
    memory_bytes: int
    memory_rate: int

    def text(self) -> str:
        """Return it in the protocol's text form, cuDNN 9.10 and CUDA 12.8 supposed."""
        feature = "ACCELERATED_FEATURES" if self.capability >= 9 else "NONE"
        facts: dict[str, object] = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "threads_per_core_limit": 2048,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 65535,
            "block_dim_limit_z": 65535,
            "thread_dim_limit_x": 1024,
            "thread_dim_limit_y": 1024,
            "thread_dim_limit_z": 64,
            "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536,
            "shared_memory_per_block": 49152,
            "shared_memory_per_core": self.shared_memory_a_core,
            "shared_memory_per_block_optin": self.shared_memory_a_block,
            "core_count": self.cores,
            "fpus_per_core": self.fpus_a_core,
            "memory_bandwidth": self.memory_rate,
            "l2_cache_size": self.cache_bytes,
            "clock_rate_ghz": self.clock_ghz,
            "device_memory_size": self.memory_bytes,
            "device_address_bits": 64,
        }
        words = {
            "device_vendor": "NVIDIA Corporation",
            "name": self.name,
            "driver_version": "12.8.0",
            "runtime_version": "12.8.0",
            "compile_time_toolkit_version": "12.8.0",
            "dnn_version": "9.10.0",
        }
        lines = [f"{name}: {value}" for name, value in facts.items()]
        lines += [f'{name}: "{value}"' for name, value in words.items()]
        lines.append(
            f"cuda_compute_capability {{ major: {self.capability} feature_extension: {feature} }}"
        )
        return (
            f'gpu_device_info {{\n{chr(10).join(lines)}\n}}\nplatform_name: "CUDA"\n'
            "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
            f'device_description_str: "{self.name}"\n'
        )


_AMPERE = GpuTarget(
    "NVIDIA A100-SXM4-80GB", 8, 108, 64, 167936, 166912, 40 * 2**20, 1.41, 85100068864, int(2.04e12)
)
_HOPPER = GpuTarget(
    "NVIDIA H100 80GB HBM3",
    *(9, 132, 128, 233472, 232448, 50 * 2**20, 1.98, 85029158912, int(3.35e12)),
)
GPU_TARGETS: dict[str, GpuTarget] = {
    "a100": _AMPERE,
    "a800": replace(_AMPERE, name="NVIDIA A800-SXM4-80GB"),
    "h100": _HOPPER,
    "h200": replace(
        _HOPPER, name="NVIDIA H200", memory_bytes=151397597184, memory_rate=int(4.8e12)
    ),
}
