"""Hair meshes: a surface from the crown over the skull, to the hairline or hanging free."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

AROUND, ALONG = 72, 26
CENTER = np.array([0.0, 0.4, 0.055])
_AZIMUTH = np.linspace(-np.pi, np.pi, AROUND + 1)[:-1]
_HEADINGS = np.stack([np.sin(_AZIMUTH), np.zeros(AROUND), np.cos(_AZIMUTH)], axis=1)
_POLAR = np.linspace(0, np.deg2rad(150), 90)

# azimuth from the front (degrees), and the height (m) of the hairline there
_LINE_AZIMUTH = (0, 25, 45, 58, 72, 88, 100, 115, 140, 180)
_LINE_Y = (0.462, 0.459, 0.45, 0.432, 0.392, 0.385, 0.398, 0.36, 0.315, 0.3)


@dataclass(frozen=True)
class HairStyle:
    """The shape of a hair style.

    `volume_m`: height above the skull. `hang_y`: y where the side hair ends, None for the hairline.
    `back_y`: y where it ends at the back. `hang_from`: azimuth (degrees) behind which it hangs.
    `fringe_m`: how far it reaches below the hairline at the forehead.
    """

    volume_m: float
    hang_y: float | None = None
    back_y: float = 0.3
    hang_from: float = 60.0
    fringe_m: float = 0.0


STYLES = {
    "short": HairStyle(volume_m=0.024),
    "crop": HairStyle(volume_m=0.012, fringe_m=-0.006),
    "bob": HairStyle(volume_m=0.026, hang_y=0.27, back_y=0.26, hang_from=54, fringe_m=0.012),
    "long": HairStyle(volume_m=0.024, hang_y=0.12, back_y=0.06, hang_from=60),
}


def measure_skull(skull: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "around polar"]:
    """Return the radius of the skull around CENTER (m), by azimuth and polar angle.

    It is that of the farthest vertex within 15 degrees, smoothed along the polar angle.
    """
    offsets = skull - CENTER
    distance = np.linalg.norm(offsets, axis=1)
    unit = (offsets / distance[:, None]).T
    rows = []
    for heading in _HEADINGS:
        cosine = _directions(heading) @ unit
        near = np.where(cosine > np.cos(np.deg2rad(15)), cosine * distance, 0).max(axis=1)
        smooth = np.convolve(np.pad(near, 4, mode="edge"), np.full(9, 1 / 9), mode="valid")
        # smoothing may cut into the skull by 2 mm at most, which the hair's volume covers
        rows.append(np.maximum(smooth, near - 0.002))
    return np.stack(rows)


def grow_hair(
    style: HairStyle, reach: Float[np.ndarray, "around polar"]
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Return a style's vertices (metres, rest pose) and faces; `reach` is from `measure_skull`."""
    degrees = np.abs(np.rad2deg(_AZIMUTH))
    line = np.interp(degrees, _LINE_AZIMUTH, _LINE_Y) - style.fringe_m * (degrees < 50)
    end = line
    if style.hang_y is not None:
        hang = np.interp(degrees, (90, 150), (style.hang_y, style.back_y))
        end = np.where(degrees > style.hang_from, hang, line)
    strands = [_strand(*column, style) for column in zip(_HEADINGS, reach, end, strict=True)]
    return np.concatenate(strands), _grid_faces()


def _directions(heading: Float[np.ndarray, "3"]) -> Float[np.ndarray, "polar 3"]:
    up = np.array([0.0, 1.0, 0.0])
    return np.sin(_POLAR)[:, None] * heading + np.cos(_POLAR)[:, None] * up


def _strand(
    heading: Float[np.ndarray, "3"],
    reach: Float[np.ndarray, "polar"],
    end_y: float,
    style: HairStyle,
) -> Float[np.ndarray, "along 3"]:
    """Return one column of the surface, from the crown down to the height `end_y`."""
    path = CENTER + _directions(heading) * (reach + style.volume_m)[:, None]
    if style.hang_y is not None:
        # below the widest point, free hair falls straight instead of following the neck
        widest = int(np.argmax((path - CENTER) @ heading))
        steps = np.linspace(0, 1, len(path) - widest)
        # long hair spreads over the shoulders, and a bob closes in on the neck
        spread = 0.016 if end_y < 0.2 else -0.008
        start_y = path[widest, 1]
        path[widest:] = path[widest] + steps[:, None] * spread * heading
        path[widest:, 1] = start_y + steps * (min(end_y, start_y - 1e-3) - start_y)
    path = path[path[:, 1] >= end_y - 1e-6]
    if style.hang_y is None:
        # taper the edge onto the skin, to leave no gap under it
        taper = np.sqrt(np.clip((path[:, 1] - end_y) / 0.03, 0, 1))[:, None]
        inner = CENTER + (path - CENTER) * 0.93
        path = inner + (path - inner) * taper
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
    at = np.linspace(0, length[-1], ALONG)
    return np.stack([np.interp(at, length, path[:, axis]) for axis in range(3)], axis=1)


def _grid_faces() -> Int[np.ndarray, "f 3"]:
    column = np.arange(AROUND)[:, None] * ALONG
    after = (np.arange(AROUND)[:, None] + 1) % AROUND * ALONG
    row = np.arange(ALONG - 1)[None, :]
    a, b, c, d = (
        np.ravel(i) for i in (column + row, after + row, after + row + 1, column + row + 1)
    )
    return np.concatenate([np.stack([a, c, b], 1), np.stack([a, d, c], 1)]).astype(np.int32)
