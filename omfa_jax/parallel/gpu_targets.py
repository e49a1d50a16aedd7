"""Descriptions of GPUs for XLA's compiler, which can then compile for one that is not attached."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class GpuTarget:
    """What XLA's GPU compiler must know about a device (its GpuTargetConfigProto).

    `capability_major` and `capability_minor` are CUDA's compute capability; a core is a streaming
    multiprocessor.
    """

    name: str
    capability_major: int
    cores: int
    fpus_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    l2_cache_bytes: int
    clock_ghz: float
    memory_bytes: int
    memory_bandwidth: int
    capability_minor: int = 0
    threads_per_core: int = 2048
    accelerated: bool = False

    def to_textproto(self) -> str:
        """Return the protocol's text form; assumes cuDNN 9.10 and CUDA 12.8."""
        feature = "ACCELERATED_FEATURES" if self.accelerated else "NONE"
        facts: dict[str, object] = {
            # limits without a field are the same for every chip below, of capability 8.0 to 12.0
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "threads_per_core_limit": self.threads_per_core,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 65535,
            "block_dim_limit_z": 65535,
            "thread_dim_limit_x": 1024,
            "thread_dim_limit_y": 1024,
            "thread_dim_limit_z": 64,
            "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536,
            # without opting in; a kernel that does may use shared_memory_per_block_optin
            "shared_memory_per_block": 49152,
            "shared_memory_per_core": self.shared_memory_per_core,
            "shared_memory_per_block_optin": self.shared_memory_per_block,
            "core_count": self.cores,
            "fpus_per_core": self.fpus_per_core,
            "memory_bandwidth": self.memory_bandwidth,
            "l2_cache_size": self.l2_cache_bytes,
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
            f"cuda_compute_capability {{ major: {self.capability_major}"
            f" minor: {self.capability_minor}"
            f" feature_extension: {feature} }}"
        )
        return (
            f'gpu_device_info {{\n{chr(10).join(lines)}\n}}\nplatform_name: "CUDA"\n'
            "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
            f'device_description_str: "{self.name}"\n'
        )


# in the order of the fields: capability, cores, FPUs per core, shared memory per core and block
# (CUDA keeps 1 KiB of a core's), L2, clock in GHz, memory, and its bandwidth in bytes per second
_AMPERE = GpuTarget(
    "NVIDIA A100-SXM4-80GB", 8, 108, 64, 167936, 166912, 40 * 2**20, 1.41, 85100068864, int(2.04e12)
)
_HOPPER = GpuTarget(
    "NVIDIA H100 80GB HBM3",
    *(9, 132, 128, 233472, 232448, 50 * 2**20, 1.98, 85029158912, int(3.35e12)),
    accelerated=True,
)
# the data-centre rows are OpenXLA's (xla/backends/gpu/target_config/specs/{b200,gb200,b300}.txtpb)
_BLACKWELL = GpuTarget(
    "NVIDIA B200",
    *(10, 148, 128, 233472, 232448, 132644864, 1.965, 191514411008, int(7.67e12)),
    accelerated=True,
)
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", 8.9 and 12.0
_ADA = GpuTarget(
    "NVIDIA L40S",
    *(8, 142, 128, 102400, 101376, 96 * 2**20, 2.52, 48305799168, int(0.864e12)),
    capability_minor=9,
    threads_per_core=1536,
)
GPU_TARGETS: dict[str, GpuTarget] = {
    "a100": _AMPERE,
    "a100_40gb": replace(
        _AMPERE,
        name="NVIDIA A100-SXM4-40GB",
        memory_bytes=42331013120,
        memory_bandwidth=int(1.555e12),
    ),
    # the A100 with a slower NVLink, which is no part of a target
    "a800": replace(_AMPERE, name="NVIDIA A800-SXM4-80GB"),
    "h100": _HOPPER,
    "h200": replace(
        _HOPPER, name="NVIDIA H200", memory_bytes=151397597184, memory_bandwidth=int(4.8e12)
    ),
    # a device's memory in MiB is what nvidia-smi reports
    "h20": replace(
        _HOPPER,
        name="NVIDIA H20",
        cores=78,
        l2_cache_bytes=60 * 2**20,
        memory_bytes=97871 * 2**20,
        memory_bandwidth=int(4.0e12),
    ),
    "b200": _BLACKWELL,
    "gb200": replace(
        _BLACKWELL,
        name="NVIDIA GB200",
        cores=152,
        l2_cache_bytes=135528448,
        clock_ghz=2.062,
        memory_bytes=197897748480,
        memory_bandwidth=int(7.93e12),
    ),
    # 288.4 GB as nvidia-smi reports it; OpenXLA's file has 297
    "b300": replace(
        _BLACKWELL,
        name="NVIDIA B300",
        capability_minor=3,
        cores=158,
        l2_cache_bytes=135528448,
        memory_bytes=275040 * 2**20,
        memory_bandwidth=int(7.94e12),
        accelerated=False,
    ),
    "l40s": _ADA,
    "rtx4090": replace(
        _ADA,
        name="NVIDIA GeForce RTX 4090",
        cores=128,
        l2_cache_bytes=72 * 2**20,
        memory_bytes=24564 * 2**20,
        memory_bandwidth=int(1.008e12),
    ),
    "rtx5090": replace(
        _ADA,
        name="NVIDIA GeForce RTX 5090",
        capability_major=12,
        capability_minor=0,
        cores=170,
        clock_ghz=2.41,
        memory_bytes=32607 * 2**20,
        memory_bandwidth=int(1.792e12),
    ),
}
