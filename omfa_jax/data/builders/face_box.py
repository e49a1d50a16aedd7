"""Find the square face box of a person from 2D keypoints or a parse map."""

from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, UInt8

from omfa_jax.body.keypoints.joint_orders import MIN_CONFIDENCE
from omfa_jax.data.builders.label_sets import CIHP, LabelSet
from omfa_jax.data.records.face_crop import FaceBox

# number of keypoints -> rows of the nose, the eyes and the ears
FACE_ROWS = {
    25: {"nose": 0, "eyes": (15, 16), "ears": (17, 18)},
    21: {"nose": 5, "eyes": (2, 3), "ears": (1, 4)},
}
# Head width divided by the distance of two points in the image, from adult proportions: the ears
# are a head width apart, the eyes 6.5 of 14.5 cm; nose to ear and nose to eye are mostly depth.
HEAD_WIDTHS = {"ear-ear": 1.0, "eye-eye": 2.2, "ear-nose": 1.25, "eye-nose": 2.6, "ear-eye": 1.0}
SIDE_IN_HEAD_WIDTHS = 1.9
RISE_IN_HEAD_WIDTHS = 0.1
SIDE_IN_MASK_SIDES = 1.2
CHIN_IN_SIDES = 0.08
MAX_SHIFT_IN_SIDES = 0.4
MIN_SIDE = 0.02
MIN_FACE_AREA = 2e-4
# hairline to chin over the width between the cheekbones: 18 to 14 cm
FACE_HEIGHT_IN_WIDTHS = 1.3


def find_face_box(
    keypoints: Float[np.ndarray, "joints 3"] | None,
    labels: UInt8[np.ndarray, "h w"] | None,
    height_px: int,
    width_px: int,
    label_set: LabelSet = CIHP,
) -> FaceBox | None:
    """Return the square (left, top, right, bottom) in pixels around face and hair, or None.

    From keypoints the side is 1.9 head widths; from the parse map, 1.2 times the longer side of
    face and nearby hair. If the parse map shows the chin, a square from keypoints is moved up to
    end 8% of its side below it, because a visible collar would leak the garment to the model. The
    square may reach over the image's edge; `crop_face` pads it. None if neither shows a face.
    """
    box = None if keypoints is None else find_box_from_keypoints(keypoints, height_px, width_px)
    if labels is None:
        return box
    if box is None:
        return find_box_from_labels(labels, height_px, width_px, label_set)
    return _crop_above_collar(box, labels, height_px, label_set)


def find_box_from_keypoints(
    keypoints: Float[np.ndarray, "joints 3"], height_px: int, width_px: int
) -> FaceBox | None:
    """Return the face box from nose, eyes and ears; None if fewer than two can be trusted.

    Rows are those of BODY_25 or the 21 of `landmark_files.py`, which differ in number. A point
    counts if its confidence is at least 0.2 and it is not at (0, 0), OpenPose's value for missing.
    None as well if the centre is outside the image or the side is below 2% of the image's height.
    """
    rows = FACE_ROWS.get(len(keypoints))
    if rows is None:
        return None
    kinds = [("nose", rows["nose"]), *(("eye", i) for i in rows["eyes"])]
    kinds += [("ear", i) for i in rows["ears"]]
    points = [(kind, keypoints[i, :2]) for kind, i in kinds if _is_seen(keypoints[i])]
    if len(points) < 2:
        return None
    # the largest estimate: foreshortening only reduces distances
    head_width = max(
        HEAD_WIDTHS["-".join(sorted((a, b)))] * float(np.linalg.norm(p - q))
        for (a, p), (b, q) in combinations(points, 2)
    )
    places = np.stack([place for _, place in points])
    x, y = (places.min(0) + places.max(0)) / 2
    side = SIDE_IN_HEAD_WIDTHS * head_width
    if not (0 <= x < width_px and 0 <= y < height_px and side >= MIN_SIDE * height_px):
        return None
    return _make_square(x, y - RISE_IN_HEAD_WIDTHS * head_width, side)


def find_box_from_labels(
    labels: UInt8[np.ndarray, "h w"],
    height_px: int,
    width_px: int,
    label_set: LabelSet = CIHP,
) -> FaceBox | None:
    """Return the face box from a parse map, in the image's pixels; None if it shows no face.

    Hair counts only above the chin and within half a face of the face, so that long hair does not
    enlarge the box. In label sets that label the neck as face, the face ends 1.3 of its widths
    below its top.
    """
    face = _find_face(labels, label_set)
    if face.mean() < MIN_FACE_AREA:
        return None
    left, top, right, bottom = _compute_extent(face)
    half = max(right - left, bottom - top) / 2
    near = np.zeros_like(face)
    columns = slice(max(0, int(left - half)), int(np.ceil(right + half)))
    near[max(0, int(top - half)) : int(np.ceil(bottom)), columns] = True
    left, top, right, bottom = _compute_extent(
        face | (near & label_set.make_mask(labels, label_set.hair))
    )
    across, down = width_px / labels.shape[1], height_px / labels.shape[0]
    side = SIDE_IN_MASK_SIDES * max((right - left) * across, (bottom - top) * down)
    return _make_square((left + right) / 2 * across, (top + bottom) / 2 * down, side)


def _is_seen(row: Float[np.ndarray, "3"]) -> bool:
    return bool(row[2] >= MIN_CONFIDENCE and np.isfinite(row).all() and row[:2].any())


def _find_face(labels: UInt8[np.ndarray, "h w"], label_set: LabelSet) -> Bool[np.ndarray, "h w"]:
    face = label_set.make_mask(labels, label_set.face)
    if label_set.face_has_neck and face.any():
        left, top, right, _ = _compute_extent(face)
        face[int(top + FACE_HEIGHT_IN_WIDTHS * (right - left)) :] = False
    return face


def _crop_above_collar(
    box: FaceBox, labels: np.ndarray, height_px: int, label_set: LabelSet
) -> FaceBox:
    face = _find_face(labels, label_set)
    if face.mean() < MIN_FACE_AREA:
        return box
    left, top, right, bottom = box
    chin = _compute_extent(face)[3] * height_px / labels.shape[0]
    excess = max(0.0, bottom - chin - CHIN_IN_SIDES * (bottom - top))
    # a chin far above is another person's, or the map is wrong
    if excess > MAX_SHIFT_IN_SIDES * (bottom - top):
        return box
    return left, top - excess, right, bottom - excess


def _compute_extent(shown: np.ndarray) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of True pixels, without the outermost 1% (specks)."""
    y, x = np.nonzero(shown)
    left, right = np.percentile(x, (1, 99))
    top, bottom = np.percentile(y, (1, 99))
    return float(left), float(top), float(right) + 1, float(bottom) + 1


def _make_square(x: float, y: float, side: float) -> FaceBox:
    return float(x - side / 2), float(y - side / 2), float(x + side / 2), float(y + side / 2)
