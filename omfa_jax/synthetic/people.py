"""Random people: body shape, skin, hair, eyes and trousers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

SKINS = (
    (0.97, 0.84, 0.75),
    (0.93, 0.75, 0.62),
    (0.83, 0.63, 0.48),
    (0.68, 0.48, 0.35),
    (0.5, 0.34, 0.25),
    (0.37, 0.25, 0.19),
)
HAIRS = (
    (0.1, 0.08, 0.07),
    (0.2, 0.13, 0.09),
    (0.36, 0.23, 0.14),
    (0.62, 0.45, 0.25),
    (0.82, 0.68, 0.42),
    (0.5, 0.22, 0.11),
    (0.28, 0.18, 0.12),
)
EYES = ((0.26, 0.16, 0.09), (0.25, 0.38, 0.55), (0.3, 0.4, 0.25))
TROUSERS = (
    (0.25, 0.34, 0.5),
    (0.36, 0.46, 0.6),
    (0.13, 0.13, 0.14),
    (0.42, 0.42, 0.43),
    (0.66, 0.58, 0.45),
    (0.14, 0.17, 0.28),
    (0.36, 0.27, 0.2),
)
HAIR_STYLES = ("short", "crop", "bob", "long")
BETA_SPREAD = 0.8


@dataclass(frozen=True, eq=False)
class Person:
    """One person: SMPL-X `betas`, colours in RGB [0, 1], `hair_style` from HAIR_STYLES."""

    index: int
    betas: Float32[np.ndarray, "10"]
    skin_rgb: Float32[np.ndarray, "3"]
    hair_rgb: Float32[np.ndarray, "3"]
    eye_rgb: Float32[np.ndarray, "3"]
    trousers_rgb: Float32[np.ndarray, "3"]
    hair_style: str


def sample_person(rng: np.random.Generator, index: int) -> Person:
    """Return a random person."""
    tone = rng.uniform(0, len(SKINS) - 1)
    lower = min(int(tone), len(SKINS) - 2)
    light, dark = np.array(SKINS[lower]), np.array(SKINS[lower + 1])
    skin = light + (tone - lower) * (dark - light)
    # no light hair on dark skin: rare enough to look like an error
    hairs = len(HAIRS) if tone < 2.5 else 3
    return Person(
        index=index,
        # narrower than the shape space, and clipped, to avoid extreme bodies
        betas=np.clip(rng.normal(size=10) * BETA_SPREAD, -2, 2).astype(np.float32),
        skin_rgb=skin.astype(np.float32),
        hair_rgb=_sample_near(rng, HAIRS[rng.integers(hairs)], 0.08),
        eye_rgb=_sample_near(rng, EYES[rng.integers(len(EYES) if tone < 2.5 else 1)], 0.1),
        trousers_rgb=_sample_near(rng, TROUSERS[rng.integers(len(TROUSERS))], 0.05),
        hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
    )


def _sample_near(
    rng: np.random.Generator, rgb: tuple[float, float, float], spread: float
) -> Float32[np.ndarray, "3"]:
    """Return the colour, randomly a little lighter or darker."""
    return (np.array(rgb) * (1 + rng.uniform(-spread, spread))).astype(np.float32)
