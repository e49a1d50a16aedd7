"""What an accelerator can do by its data sheet: one row per kind of chip."""

import re
from dataclasses import dataclass

USABLE_FRACTION = 0.92
"""Fraction of a chip's memory for programs: `parallel.xla_flags` sets it, and `omfa plan`
plans with it. The rest is left to the driver and to the collectives' own buffers."""


@dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts it: a GPU, a TPU chip, or half of a TPU7x chip.

    `device_kind`: how JAX's name for the device begins. `bf16_flops`: dense bfloat16 matrix
    products with float32 accumulation, FLOP/s (data sheets often print twice that, with sparsity).
    `memory_bytes` is what the driver reports, `memory_bandwidth` the data sheet's, in bytes/s.
    `intra_node_bandwidth`: bytes/s that a device receives in a gather from its NVLink domain or
    node, or along one axis (two links) of its torus; `inter_node_bandwidth`: from other nodes or
    slices. A domain is what NVLink connects, or a host without NVLink.
    """

    device_kind: str
    bf16_flops: float
    memory_bytes: float
    memory_bandwidth: float
    intra_node_bandwidth: float
    inter_node_bandwidth: float
    gpus_per_host: int = 8
    gpus_per_domain: int = 8
    devices_per_chip: int = 1


# NVLink and PCIe count one direction, half of what data sheets print. `inter_node_bandwidth` of a
# GPU is its share of the node's network adapters in the vendor's reference design.
CHIPS: dict[str, Chip] = {
    # NVIDIA A100 80GB data sheet; DGX A100: one 200 Gb/s adapter per GPU
    "a100": Chip("NVIDIA A100", 312e12, 85.1e9, 2.04e12, 300e9, 25e9),
    # NVIDIA A100 40GB data sheet: HBM2; the memory that CUDA reports (OpenXLA's a100_sxm_40.txtpb)
    "a100_40gb": Chip("NVIDIA A100-SXM4-40GB", 312e12, 42.3e9, 1.555e12, 300e9, 25e9),
    # an A100 with NVLink at 400 instead of 600 GB/s
    "a800": Chip("NVIDIA A800", 312e12, 85.1e9, 2.04e12, 200e9, 25e9),
    # NVIDIA H100 (SXM) and H200 data sheets; DGX: one 400 Gb/s adapter per GPU
    "h100": Chip("NVIDIA H100", 989e12, 85.0e9, 3.35e12, 450e9, 50e9),
    "h200": Chip("NVIDIA H200", 989e12, 151.4e9, 4.8e12, 450e9, 50e9),
    # the H20 96GB for China: Hopper with 78 of 132 SMs; 97871 MiB by nvidia-smi
    "h20": Chip("NVIDIA H20", 148e12, 102.6e9, 4.0e12, 450e9, 50e9),
    # NVIDIA Blackwell data sheet, HGX B200: 36 PFLOP/s sparse, 1.44 TB for 8; ConnectX-7
    "b200": Chip("NVIDIA B200", 2250e12, 191.5e9, 7.7e12, 900e9, 50e9),
    # GB200 NVL72 data sheet: 360 PFLOP/s sparse, 576 TB/s for 72 GPUs in one NVLink domain
    "gb200": Chip(
        *("NVIDIA GB200", 2500e12, 197.9e9, 8.0e12, 900e9, 50e9),
        gpus_per_host=4,
        gpus_per_domain=72,
    ),
    # HGX B300 data sheet: bfloat16 as B200; 275040 MiB by nvidia-smi; ConnectX-8, 800 Gb/s
    "b300": Chip("NVIDIA B300", 2250e12, 288.4e9, 8.0e12, 900e9, 100e9),
    # AMD MI300X data sheet: seven 64 GB/s Infinity Fabric links each way, one to each peer
    "mi300x": Chip("AMD Instinct MI300X", 1307.4e12, 206.1e9, 5.3e12, 448e9, 50e9),
    # NVIDIA L40S data sheet: no NVLink, PCIe 4.0 x16; OVX: 100 Gb/s of adapter per GPU
    "l40s": Chip("NVIDIA L40S", 362e12, 48.3e9, 0.864e12, 32e9, 12.5e9),
    # Ada and RTX Blackwell whitepapers, appendix A (float32 accumulation runs at half rate there);
    # PCIe 4.0 and 5.0 x16 through host memory; assumes one 100 Gb/s adapter for 8 GPUs
    "rtx4090": Chip("NVIDIA GeForce RTX 4090", 165.2e12, 25.76e9, 1.008e12, 32e9, 1.6e9),
    "rtx5090": Chip("NVIDIA GeForce RTX 5090", 209.5e12, 34.19e9, 1.792e12, 64e9, 1.6e9),
    # docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: two ICI ports one way (a quarter or a sixth
    # of "bidirectional ICI bandwidth per chip", which sums all ports and both ways), DCN per chip
    "v4": Chip("TPU v4", 275e12, 32 * 2**30, 1.2e12, 100e9, 6.2e9),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * 2**30, 0.82e12, 100e9, 3.1e9),
    "v5p": Chip("TPU v5", 459e12, 95 * 2**30, 2.77e12, 200e9, 6.2e9),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * 2**30, 1.64e12, 200e9, 12.5e9),
    # docs.cloud.google.com/tpu/docs/tpu7x: 2307 TFLOP/s, 192 GiB, 7380 GB/s, ICI 1200 GB/s and DCN
    # 100 Gb/s per chip, halved: each of its two chiplets is a JAX device
    "tpu7x": Chip("TPU7x", 1153.5e12, 96 * 2**30, 3.69e12, 100e9, 6.2e9, devices_per_chip=2),
}

# products that share a row's name and not its peak; an A100 or A800 computes as fast on PCIe
OTHER_PRODUCT = re.compile(r"^(?!NVIDIA A[18]00\b).* (PCIe|NVL)\b| (MIG|Laptop|D)\b")


def find_chip(device_kind: str) -> Chip | None:
    """Return the row whose name `device_kind` begins with, the longest; None if there is none."""
    if OTHER_PRODUCT.search(device_kind):
        return None
    found = [chip for chip in CHIPS.values() if device_kind.startswith(chip.device_kind)]
    return max(found, key=lambda chip: len(chip.device_kind), default=None)
