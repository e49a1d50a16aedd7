"""Chips are found by their JAX device_kind."""

import pytest

from omfa_jax.parallel.hardware import CHIPS, find_chip


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A800-SXM4-80GB", "a800"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        # the SXM module's peak too
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
    ],
)
def test_names(kind, name):
    assert find_chip(kind) is CHIPS[name]


@pytest.mark.parametrize(
    "kind",
    [
        "cpu",
        "NVIDIA L4",
        # the same name, other rates
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ],
)
def test_others_are_unknown(kind):
    assert find_chip(kind) is None


def test_rates_are_dense_and_per_direction():
    """A sparse or bidirectional figure copied from a data sheet would be off by two."""
    h100 = CHIPS["h100"]
    for name, chip in CHIPS.items():
        # every one needs 30 to 600 operations per byte of its memory
        assert 30 < chip.bf16_flops / chip.memory_bandwidth < 600, name
        assert chip.intra_node_bandwidth > chip.inter_node_bandwidth, name
    ratio = {name: CHIPS[name].bf16_flops / h100.bf16_flops for name in ("b200", "mi300x", "h20")}
    assert ratio == pytest.approx({"b200": 2.275, "mi300x": 1.322, "h20": 0.15}, rel=0.01)
    assert CHIPS["b200"].intra_node_bandwidth == 2 * h100.intra_node_bandwidth
