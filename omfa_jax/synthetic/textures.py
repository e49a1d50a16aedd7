"""Cloth patterns and chest prints on the garment's sheet."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from omfa_jax.synthetic.garment_sheet import BACK, FRONT, SLEEVE, TEXTURE_SIDE_M, TEXTURE_TOP_Y

# 0.13 m is 14 pixels in an image of height 128, so that a bar is about one latent at stride 8: the
# finest pattern that the small model can reproduce
PERIOD_M = (0.13, 0.22)
EDGE_TEXELS = 1.2

Plane = Float32[np.ndarray, "side side"]


def make_axes(side: int) -> tuple[Float32[np.ndarray, "1 side"], Float32[np.ndarray, "side 1"]]:
    """Return the sheet coordinates (metres) of a texture's texels: x as a row, y as a column."""
    step = TEXTURE_SIDE_M / side
    ticks = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(step)
    return (ticks - TEXTURE_SIDE_M / 2)[None, :], (TEXTURE_TOP_Y - ticks)[:, None]


def antialias(distance_m: np.ndarray, side: int) -> np.ndarray:
    """Return the coverage in [0, 1] of a signed distance (m, positive inside), antialiased."""
    width = EDGE_TEXELS * TEXTURE_SIDE_M / side
    return np.clip(distance_m / width + np.float32(0.5), 0, 1).astype(np.float32)


def _bars(position: np.ndarray, period: float, share: float, side: int) -> np.ndarray:
    """Return the coverage of bars that fill `share` of each period."""
    offset = np.abs((position / period) % 1.0 - 0.5) * period
    return antialias(share * period / 2 - offset, side)


def _plain(rng: np.random.Generator, side: int) -> Plane:
    return np.zeros((side, side), np.float32)


def _horizontal(rng: np.random.Generator, side: int) -> Plane:
    _, y = make_axes(side)
    bars = _bars(y + rng.uniform(0, 0.2), rng.uniform(*PERIOD_M), rng.uniform(0.4, 0.6), side)
    return np.broadcast_to(bars, (side, side))


def _vertical(rng: np.random.Generator, side: int) -> Plane:
    x, _ = make_axes(side)
    period = rng.uniform(*PERIOD_M)
    bars = _bars(x + period / 2 * rng.integers(2), period, rng.uniform(0.4, 0.6), side)
    return np.broadcast_to(bars, (side, side))


def _checks(rng: np.random.Generator, side: int) -> Plane:
    x, y = make_axes(side)
    period = rng.uniform(*PERIOD_M)
    across, down = _bars(x, period, 0.5, side), _bars(y, period, 0.5, side)
    if rng.random() < 0.5:
        return across * down + (1 - across) * (1 - down)
    return (across + down) / 2


def _dots(rng: np.random.Generator, side: int) -> Plane:
    x, y = make_axes(side)
    period = rng.uniform(0.12, 0.17)
    row = np.floor(y / period)
    # every other row is shifted by half a period
    dx = ((x / period + 0.5 * (row % 2)) % 1.0 - 0.5) * period
    dy = ((y / period) % 1.0 - 0.5) * period
    return antialias(period * rng.uniform(0.27, 0.34) - np.sqrt(dx * dx + dy * dy), side)


def _blocks(rng: np.random.Generator, side: int) -> Plane:
    x, y = make_axes(side)
    line = rng.uniform(-0.14, 0.06)
    kind = rng.integers(3)
    if kind == 0:
        distance = np.broadcast_to(line - y, (side, side))
    elif kind == 1:
        distance = np.broadcast_to(0.055 - np.abs(y - line), (side, side))
    else:
        distance = (line - y + x * rng.choice([-0.6, 0.6])) * 0.86
    return antialias(distance, side)


def _gradient(rng: np.random.Generator, side: int) -> Plane:
    _, y = make_axes(side)
    part = np.clip((y - rng.uniform(-0.3, -0.2)) / rng.uniform(0.3, 0.45), 0, 1)
    return np.broadcast_to((part * part * (3 - 2 * part)).astype(np.float32), (side, side))


def _blobs(rng: np.random.Generator, side: int) -> Plane:
    x, y = make_axes(side)
    field = np.zeros((side, side), np.float32)
    for _ in range(4):
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.16, 0.3)
        along = (np.cos(angle) * x + np.sin(angle) * y) / period
        field += np.sin(2 * np.pi * along + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    return antialias((field - 0.4) * 0.03, side)


# name -> (share of the garments, function that returns the coverage of the second colour)
PATTERNS: dict[str, tuple[float, Callable[[np.random.Generator, int], Plane]]] = {
    "plain": (0.35, _plain),
    "horizontal stripes": (0.13, _horizontal),
    "vertical stripes": (0.1, _vertical),
    "checks": (0.1, _checks),
    "dots": (0.1, _dots),
    "color block": (0.1, _blocks),
    "gradient": (0.06, _gradient),
    "blobs": (0.06, _blobs),
}


def draw_print(
    rng: np.random.Generator, side: int
) -> tuple[Plane, Float32[np.ndarray, "side side"]]:
    """Return the coverage of a random chest print, and of the motif inside it."""
    x, y = make_axes(side)
    size = rng.uniform(0.075, 0.105)
    y = y - rng.uniform(-0.02, 0.05)
    across, radius = np.abs(x), np.sqrt(x * x + y * y)
    angle = np.arctan2(x, y)
    # signed distances in metres, roughly: antialiasing needs their slope near 1 at the edge
    shapes = (
        lambda: size - radius,
        lambda: size * 0.9 - np.maximum(across, np.abs(y) * 1.15),
        lambda: np.minimum((y + size * 0.8) * 1.0, (size * 0.95 - across * 1.8 - y) * 0.5),
        lambda: (size * 1.1 - across - np.abs(y)) * 0.7,
        lambda: size * (0.72 + 0.34 * np.cos(5 * angle)) - radius,
        lambda: size - np.hypot(across * 1.05, y - 0.85 * np.sqrt(across * size) + 0.25 * size),
        lambda: np.minimum(size * 1.35 - across, size * 0.34 - np.abs(y)),
        lambda: size * 0.26 - np.abs(radius - size * 0.75),
    )
    distance = shapes[rng.integers(len(shapes))]()
    motifs = (
        lambda: size * 0.42 - radius,
        lambda: -distance + size * 0.3,
        lambda: np.broadcast_to(-x, distance.shape),
        lambda: np.broadcast_to(y, distance.shape),
    )
    plain = rng.random() < 0.4
    motif = motifs[rng.integers(len(motifs))]()
    inner = np.zeros_like(distance) if plain else antialias(motif, side)
    return antialias(distance, side), inner


def paint_texture(
    rng: np.random.Generator,
    side: int,
    *,
    pattern: str,
    ground_rgb: Float32[np.ndarray, "3"],
    second_rgb: Float32[np.ndarray, "3"],
    print_rgb: Float32[np.ndarray, "2 3"] | None,
    sleeve_rgb: Float32[np.ndarray, "3"] | None,
) -> Float32[np.ndarray, "3 side side 3"]:
    """Return the texture of a garment's front, back and sleeves, RGB in [0, 1].

    `print_rgb`: two colours of the chest print, None without a print. `sleeve_rgb`: colour of plain
    sleeves, None for the pattern.
    """
    coverage = PATTERNS[pattern][1](rng, side)[..., None]
    base = ground_rgb + coverage * (second_rgb - ground_rgb)
    sheets = np.empty((3, side, side, 3), np.float32)
    sheets[FRONT] = sheets[BACK] = sheets[SLEEVE] = base
    if sleeve_rgb is not None:
        sheets[SLEEVE] = sleeve_rgb
    if print_rgb is not None:
        shape, motif = (plane[..., None] for plane in draw_print(rng, side))
        ink = print_rgb[0] + motif * (print_rgb[1] - print_rgb[0])
        # on the front only, as chest prints are
        sheets[FRONT] += shape * (ink - sheets[FRONT])
    return sheets
