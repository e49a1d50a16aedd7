"""Random tops: cut, colours and pattern."""

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from omfa_jax.synthetic import garment_sheet, textures

# name -> (length from the shoulder seam in metres, share); lengths vary by 2 cm
SLEEVES = {"sleeveless": (-0.012, 0.14), "short": (0.15, 0.42), "elbow": (0.27, 0.14)}
SLEEVES["long"] = (0.485, 0.3)
NECKS = {"crew": 0.55, "v": 0.25, "boat": 0.2}


@dataclass(frozen=True, eq=False)
class Garment:
    """One top.

    `cut`: lengths in metres on the sheet, in the order of `garment_sheet`. `fit`: 0 is slim, 1
    loose. Colours are RGB in [0, 1]. `print_rgb`: None without a chest print. `sleeve_rgb`: None if
    the sleeves have the pattern of the torso.
    """

    index: int
    sleeve: str
    neck: str
    cut: Float32[np.ndarray, "8"]
    fit: float
    pattern: str
    ground_rgb: Float32[np.ndarray, "3"]
    second_rgb: Float32[np.ndarray, "3"]
    trim_rgb: Float32[np.ndarray, "3"]
    print_rgb: Float32[np.ndarray, "2 3"] | None
    sleeve_rgb: Float32[np.ndarray, "3"] | None
    texture_seed: int

    def make_texture(self, side: int) -> Float32[np.ndarray, "3 side side 3"]:
        """Return the painted texture of front, back and sleeve."""
        return textures.paint_texture(
            np.random.default_rng(self.texture_seed),
            side,
            pattern=self.pattern,
            ground_rgb=self.ground_rgb,
            second_rgb=self.second_rgb,
            print_rgb=self.print_rgb,
            sleeve_rgb=self.sleeve_rgb,
        )


def sample_garment(rng: np.random.Generator, index: int) -> Garment:
    """Return a random garment.

    The order of the draws is part of the format: changing it changes every synthetic data set.
    """
    sleeve = _pick(rng, {name: share for name, (_, share) in SLEEVES.items()})
    neck = _pick(rng, NECKS)
    width, depth = {
        "crew": (rng.uniform(0.078, 0.09), rng.uniform(0.075, 0.1)),
        "v": (rng.uniform(0.078, 0.092), rng.uniform(0.13, 0.17)),
        "boat": (rng.uniform(0.11, 0.13), rng.uniform(0.06, 0.075)),
    }[neck]
    cut = np.zeros(garment_sheet.CUT_LENGTH, np.float32)
    sleeve_m = SLEEVES[sleeve][0]
    # a sleeveless top is marked by a length below 0, which must not vary to above it
    cut[garment_sheet.SLEEVE_M] = sleeve_m + (rng.uniform(-0.02, 0.02) if sleeve_m > 0 else 0)
    cut[garment_sheet.HEM_Y] = rng.uniform(garment_sheet.LOWEST_HEM_Y + 0.01, -0.25)
    cut[garment_sheet.NECK_HALF_WIDTH], cut[garment_sheet.NECK_DEPTH] = width, depth
    cut[garment_sheet.NECK_IS_V] = neck == "v"
    cut[garment_sheet.COLLAR_M] = rng.uniform(0.013, 0.02)
    cut[garment_sheet.CUFF_M] = 0.02 if sleeve == "long" else 0.012
    cut[garment_sheet.HEM_M] = 0.011

    pattern = _pick(rng, {name: share for name, (share, _) in textures.PATTERNS.items()})
    ground = _cloth_color(rng)
    second = _pick_contrasting(rng, ground)
    accent = _pick_contrasting(rng, ground)
    contrast_trim = rng.random() < 0.3
    has_print, has_sleeves = rng.random() < 0.4, rng.random() < 0.12
    return Garment(
        index=index,
        sleeve=sleeve,
        neck=neck,
        cut=cut,
        fit=float(rng.uniform(0, 1)),
        pattern=pattern,
        ground_rgb=ground,
        second_rgb=second,
        trim_rgb=accent if contrast_trim else ground * np.float32(0.8),
        print_rgb=np.stack([accent, _pick_contrasting(rng, accent)]) if has_print else None,
        sleeve_rgb=second if has_sleeves else None,
        texture_seed=int(rng.integers(2**62)),
    )


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[rng.choice(len(weights), p=weights / weights.sum())]


def _cloth_color(rng: np.random.Generator) -> Float32[np.ndarray, "3"]:
    """Return a random saturated, pastel, dark or greyish colour, darker than the wall."""
    kind = rng.random()
    hue = rng.random()
    if kind < 0.45:
        hsv = (hue, rng.uniform(0.6, 0.95), rng.uniform(0.55, 0.95))
    elif kind < 0.75:
        hsv = (hue, rng.uniform(0.2, 0.45), rng.uniform(0.8, 0.97))
    elif kind < 0.9:
        hsv = (hue, rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.45))
    else:
        hsv = (hue, rng.uniform(0, 0.08), rng.choice([0.16, 0.4, 0.65, 0.95]))
    return np.array(colorsys.hsv_to_rgb(*hsv), np.float32)


def _pick_contrasting(
    rng: np.random.Generator, against: Float32[np.ndarray, "3"]
) -> Float32[np.ndarray, "3"]:
    """Return a random colour distinct from `against`: the first far enough, or the best of six."""
    best, distance = against, -1.0
    for _ in range(6):
        color = _cloth_color(rng)
        gap = float(np.abs(color - against).sum())
        if gap > distance:
            best, distance = color, gap
        # of at most 3: the sum over the channels
        if gap > 0.8:
            break
    return best
