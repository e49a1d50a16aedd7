"""Draw photos with the keypoints of their people, as a contact sheet."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from omfa_jax.body.keypoints.joint_orders import BODY_25, MIN_CONFIDENCE
from omfa_jax.data.records.contact_sheet import draw_cell

PHOTOS_PER_ROW = 4
CELL_PX = (384, 288)
# the person's right is red and the left green, as on a ship
SIDE_COLORS = {"right": (230, 40, 40), "left": (30, 170, 60)}
MIDDLE_COLOR = (40, 90, 230)
_CHAINS = (
    ("shoulder", "elbow", "wrist"),
    ("shoulder", "hip", "knee", "ankle", "heel"),
    ("ankle", "big_toe"),
    ("eye", "ear"),
)
_LIMBS = [
    (f"{side}_{one}", f"{side}_{other}")
    for side in SIDE_COLORS
    for chain in _CHAINS
    for one, other in itertools.pairwise(chain)
] + [("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")]


def draw_keypoints(
    photo: UInt8[np.ndarray, "h w 3"], rows: Float[np.ndarray, "k 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the photo with (x px, y px, confidence) rows: dots, and with BODY_25's also limbs."""
    drawn = Image.fromarray(photo)
    brush = ImageDraw.Draw(drawn)
    width = max(1, max(photo.shape) // 200)
    names = BODY_25 if len(rows) == len(BODY_25) else ("",) * len(rows)
    shown = [
        (name, (float(x), float(y)))
        for name, (x, y, sure) in zip(names, rows, strict=True)
        if sure >= MIN_CONFIDENCE
    ]
    places = dict(shown)
    for one, other in _LIMBS:
        if one in places and other in places:
            same = one.partition("_")[0] == other.partition("_")[0]
            color = _get_color(one) if same else MIDDLE_COLOR
            brush.line((*places[one], *places[other]), fill=color, width=width)
    for name, (x, y) in shown:
        box = (x - 1.5 * width, y - 1.5 * width, x + 1.5 * width, y + 1.5 * width)
        brush.ellipse(box, fill=_get_color(name))
    return np.array(drawn)


def make_keypoint_sheet(
    cells: Iterable[tuple[str, UInt8[np.ndarray, "h w 3"] | None]],
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the sheet of (caption, photo with keypoints); None is an unreadable photo, grey."""
    drawn = [draw_cell(text, image, *CELL_PX) for text, image in cells]
    blank = np.full_like(drawn[0], 255)
    count = min(PHOTOS_PER_ROW, len(drawn))
    drawn += [blank] * (-len(drawn) % count)
    rows: Sequence[np.ndarray] = [
        np.concatenate(drawn[i : i + count], axis=1) for i in range(0, len(drawn), count)
    ]
    return np.concatenate(rows)


def _get_color(name: str) -> tuple[int, int, int]:
    return SIDE_COLORS.get(name.partition("_")[0], MIDDLE_COLOR)
