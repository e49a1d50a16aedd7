"""Pictures that both sides of `bench/gpu.py` are given; neither JAX nor PyTorch is loaded."""

import numpy as np


def make_pictures(
    slots_px: tuple[tuple[int, int], ...],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return noise as garment, face and pose map, uint8."""
    rng = np.random.default_rng(0)
    garment, person, face = (rng.integers(0, 256, (*px, 3), np.uint8) for px in slots_px)
    return {"garment": garment, "face": face}, person
