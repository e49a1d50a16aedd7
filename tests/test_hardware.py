"""Chips are found by the names that JAX gives them."""

import pytest

from omfa_jax.parallel.hardware import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A800-SXM4-80GB", "a800"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_names(kind, name):
    assert chip_of(kind) is CHIPS[name]


def test_others_are_unknown():
    assert chip_of("cpu") is None and chip_of("NVIDIA L4") is None
