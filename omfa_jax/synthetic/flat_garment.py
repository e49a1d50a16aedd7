"""Render the shop photo: the garment laid flat on white, drawn from its sheet."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from omfa_jax.synthetic import garment_sheet, shading
from omfa_jax.synthetic.garment_sheet import (
    ARMPIT_Y,
    COLLAR_Y,
    HEM_Y,
    NECK_SIDE_X,
    SEAM_X,
    SHOULDER_SLOPE,
    SHOULDER_Y,
    SLEEVE_M,
    compute_half_width,
    compute_neck_distance,
    compute_sleeve_color,
    compute_sleeve_width,
    compute_torso_color,
)
from omfa_jax.synthetic.garments import Garment
from omfa_jax.synthetic.numba_kernels import kernel

MARGIN = 0.07
# (length in metres, angle): longer sleeves hang more steeply, which keeps them in the frame
SHORT_SLEEVE, LONG_SLEEVE = (0.15, np.deg2rad(38)), (0.485, np.deg2rad(72))
# CIHP's upper clothes; any label but 0 would do for the mask
GARMENT_LABEL = 5


class _Placement(NamedTuple):
    """Where the garment is in the frame.

    `turn`: (cos, sin) of the sleeves' angle. `scale`: px per metre. `middle_y`: sheet y (m) at the
    centre.
    """

    turn: Float32[np.ndarray, "2"]
    scale: float
    middle_y: float


def compute_sleeve_angle(sleeve_m: float) -> float:
    """Return the angle below the horizontal (radians) of a sleeve of this length."""
    lengths, angles = zip(SHORT_SLEEVE, LONG_SLEEVE, strict=True)
    return float(np.interp(sleeve_m, lengths, angles))


def draw_flat_garment(
    garment: Garment,
    texture: Float32[np.ndarray, "3 side side 3"],
    phases: Float32[np.ndarray, "3"],
    height_px: int,
    width_px: int,
    supersample: int,
) -> tuple[UInt8[np.ndarray, "height_px width_px 3"], Bool[np.ndarray, "height_px width_px"]]:
    """Return the photo and the mask (True on the garment), with the garment fully in the frame.

    `texture`: the painted sheet. `phases`: place the folds. Rendered at `supersample` times the
    size and averaged down.
    """
    shape = (height_px * supersample, width_px * supersample)
    color, label = np.ones((*shape, 3), np.float32), np.zeros(shape, np.uint8)
    scale, middle_y = compute_frame(garment.cut, *shape)
    angle = compute_sleeve_angle(garment.cut[SLEEVE_M])
    turn = np.array([np.cos(angle), np.sin(angle)], np.float32)
    placement = _Placement(turn, scale, middle_y)
    _draw(texture, garment.cut, garment.trim_rgb, placement, phases, color, label)
    image = np.empty((height_px, width_px, 3), np.uint8)
    mask = np.empty((height_px, width_px), np.uint8)
    shading.downsample(color, label, supersample, image, mask)
    return image, mask > 0


def compute_frame(
    cut: Float32[np.ndarray, "8"], height_px: int, width_px: int
) -> tuple[float, float]:
    """Return the scale (px per metre) and the sheet's y (m) at the centre of the shop photo."""
    low, reach = float(cut[HEM_Y]), garment_sheet.compute_half_width(float(cut[HEM_Y]))
    if cut[SLEEVE_M] > 0:
        angle = compute_sleeve_angle(cut[SLEEVE_M])
        outwards, down = np.cos(angle), np.sin(angle)
        # the lower corner of the cuff, square to the sleeve, reaches furthest down
        cuff = garment_sheet.compute_sleeve_width(float(cut[SLEEVE_M]))
        reach = max(reach, SEAM_X + cut[SLEEVE_M] * outwards)
        low = min(low, SHOULDER_Y - cut[SLEEVE_M] * down - cuff * outwards)
    scale = (1 - 2 * MARGIN) * min(height_px / (COLLAR_Y - low), width_px / (2 * reach))
    return float(scale), float(COLLAR_Y + low) / 2


@kernel
def _torso_edge(x, y, cut):
    """Return the approximate distance (m) to the torso's outline without neckline; < 0 outside."""
    side = compute_half_width(y)
    if cut[SLEEVE_M] < 0.0 and y > ARMPIT_Y:
        part = min((SHOULDER_Y - y) / (SHOULDER_Y - ARMPIT_Y), 1.0)
        side = SEAM_X + cut[SLEEVE_M] + (0.235 - SEAM_X - cut[SLEEVE_M]) * max(part, 0.0) ** 4
    shoulder = COLLAR_Y - SHOULDER_SLOPE * max(abs(x) - NECK_SIDE_X, 0.0) - y
    return min(side - abs(x), shoulder * 0.87, y - cut[HEM_Y])


@kernel
def _draw(texture, cut, trim, placement, phases, color, label) -> None:
    turn, scale, middle_y = placement
    height, width = label.shape
    for row in range(height):
        # rows grow downwards, and y of the sheet upwards
        y = middle_y - (row + 0.5 - height / 2) / scale
        for column in range(width):
            x = (column + 0.5 - width / 2) / scale
            # coordinates of the sleeve: s along it, across from its upper fold
            dx, dy = abs(x) - SEAM_X, SHOULDER_Y - y
            s, across = dx * turn[0] + dy * turn[1], dy * turn[0] - dx * turn[1]
            sleeve_edge = min(cut[SLEEVE_M] - s, across, compute_sleeve_width(s) - across, s)
            torso_edge = _torso_edge(x, y, cut)
            if torso_edge > 0.0 and compute_neck_distance(x, y, True, cut) > 0.0:
                red, green, blue = compute_torso_color(texture, cut, trim, x, y, True)
                edge, gain = torso_edge, 1.0
                if cut[SLEEVE_M] > 0.0 and y > ARMPIT_Y:
                    edge = max(torso_edge, min(y - ARMPIT_Y, 0.03))
                    gain = 0.93 if torso_edge < 0.005 else 1.0
            elif sleeve_edge > 0.0 and (torso_edge <= 0.0):
                red, green, blue = compute_sleeve_color(
                    texture, cut, trim, s, across / compute_sleeve_width(s)
                )
                edge, gain = max(min(sleeve_edge, 0.03), 0.03 - 0.5 * max(s, 0.0)), 1.0
                edge = min(edge, across, compute_sleeve_width(s) - across)
            elif torso_edge > 0.0 and compute_neck_distance(x, y, False, cut) > 0.0:
                red, green, blue = compute_torso_color(texture, cut, trim, x, y, False)
                # the back layer, seen through the neckline, is in shadow
                edge, gain = torso_edge, 0.62
            else:
                continue
            gain *= 1.0 + 0.5 * (
                0.03 * np.sin(x * 18 + y * 11 + phases[0])
                + 0.02 * np.sin(y * 21 - x * 9 + phases[1])
            )
            # darker towards the edge, where cloth curls: keeps white tops visible on white
            gain *= 0.84 + 0.16 * min(max(edge, 0.0) / 0.012, 1.0)
            color[row, column, 0] = red * gain
            color[row, column, 1] = green * gain
            color[row, column, 2] = blue * gain
            label[row, column] = GARMENT_LABEL
