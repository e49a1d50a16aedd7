"""Read the keypoints of the person in a photo: the one reader of fit, build, check and sample."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from omfa_jax.body.keypoints.file_people import FilePerson
from omfa_jax.body.keypoints.joint_orders import BODY_25, MIN_CONFIDENCE
from omfa_jax.body.keypoints.keypoint_formats import list_people
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath, to_path

MAX_ASPECT_ERROR = 0.02
# ControlNet's preprocessors round each side of their canvas to a multiple of it
CANVAS_STEP_PX = 64
# no photo is as small as this: such coordinates are fractions of the sides
MAX_FRACTION, MIN_SMALL_SHARE = 2.0, 0.75
# OpenPose's --keypoint_scale 4 writes -1..1, where a person has many points below 0
MIN_NEGATIVE_SHARE = 0.25
# Percent of the photo's sides: no point is beyond these values, and read so the person is the
# photo's subject, near the middle, half of its height, down to its lower quarter, with the hips.
# Read as pixels, the person would stand in the upper left corner; in photos of less than
# MIN_SIDE_PX the two cannot be told apart.
PERCENT_RANGE, MIN_SIDE_PX = (-5.0, 105.0), 150
PERCENT_MIDDLE, MIN_PERCENT_HEIGHT, MIN_PERCENT_BOTTOM = (20.0, 80.0), 50.0, 75.0
HIP_ROWS = [BODY_25.index(name) for name in ("mid_hip", "right_hip", "left_hip")]
# Detectors put points of cropped limbs a few percent beyond the edge. Top-down ones may go farther,
# but then with a low confidence: DWPose itself drops points below 0.3.
FAR_OUTSIDE, FAR_CONFIDENCE = 0.1, 0.3
MIN_FAR_POINTS, MIN_FAR_SHARE = 2, 0.25
# a box has two corners
MIN_POINTS = 2
OTHER_SIZE = "keypoints of another size than the photo"
OTHER_ASPECT = "keypoints of another aspect ratio than the photo"
OTHER_PHOTO = "keypoints that name another photo; used"
# Of a photo that was enlarged after the keypoints were found. Somebody may stand there, but a
# photo is rarely framed so.
SMALLER = "keypoints in the upper left quarter of the photo only: of a smaller photo? used"
MIN_POINTS_OF_SMALLER = 8
# Scores above 1 differ by a larger factor between a face and a foot. Depths in metres do not: a
# person is less than a metre deep, and two or more away from the camera.
MAX_DEPTH_RATIO = 1.6
DEPTHS = "keypoints whose third numbers are all above 1 and alike: depths? used as confidences of 1"
PERCENT = (
    "keypoints from 0 to 100: used as percent of the photo's sides (if they are pixels, write"
    " canvas_width and canvas_height, the photo's size, into the file)"
)
NO_PERSON = "no person in the keypoints"
SEVERAL = "people in the keypoints; the largest is used (--person-index chooses)"


class KeypointsError(OmfaError):
    """Keypoints that cannot be used; `summary` is the reason without names and numbers, or ""."""

    summary = ""


class NoPersonError(KeypointsError):
    """A file without a person."""

    summary = NO_PERSON


class OtherSizeError(KeypointsError):
    """Keypoints of an image of another size."""

    summary = f"{OTHER_SIZE}; not used"


class OtherAspectError(KeypointsError):
    """Keypoints of an image of another aspect ratio."""

    summary = f"{OTHER_ASPECT}; not used"


@dataclass(frozen=True)
class PhotoKeypoints:
    """The keypoints of a photo's person, and what was chosen on the way.

    `rows`: (x px, y px, confidence); BODY_25, or DeepFashion-MultiModal's 21 landmarks. A point
    that was not found, or lies far outside of the photo, is zero. `notes`: short phrases for logs
    and reports, without file names. `index`: the person's number in the file.
    """

    rows: Float[np.ndarray, "k 3"]
    notes: tuple[str, ...] = field(default=())
    index: int = 0


def read_keypoints(
    path: str | os.PathLike,
    size_px: tuple[int, int],
    *,
    photo: str | os.PathLike = "",
    person_index: int | None = None,
) -> PhotoKeypoints:
    """Return the BODY_25 keypoints of one person in pixels of a photo of `size_px` (width, height).

    `photo`: the photo's file, whose name chooses among several in a results file. `person_index`:
    the person, counted from 0 in the file's order; None takes the one with the largest box. Raises
    KeypointsError if the file is missing or of no known form, has no such person, or belongs to a
    image of another size or aspect.
    """
    name = PurePath(photo).stem
    try:
        people = list_people(_parse(to_path(path)), name)
        shown, are_percent = _scale(people, size_px)
        index, notes = _choose(shown, size_px, person_index)
        require_photo_size(shown[index], size_px)
    except KeypointsError as error:
        raise type(error)(f"{path}: {error}") from None
    except OmfaError as error:
        raise KeypointsError(f"keypoints {path}: {error}") from None
    except RecursionError:
        raise KeypointsError(f"keypoints {path}: brackets nested too deeply") from None
    image = people[index].image
    if name and PurePath(image).suffix and PurePath(image).stem != name:
        notes.append(OTHER_PHOTO)
    if _is_in_corner(np.concatenate(shown), size_px):
        notes.append(SMALLER)
    seen = shown[index][shown[index][:, 2] > 0, 2]
    if seen.min() > 1 and seen.max() <= MAX_DEPTH_RATIO * seen.min():
        notes.append(DEPTHS)
    if are_percent:
        notes.append(PERCENT)
    far = _find_far(shown[index], size_px)
    rows = np.where(far[:, None], 0.0, shown[index])
    return PhotoKeypoints(np.minimum(rows, [np.inf, np.inf, 1]), tuple(notes), index)


def require_photo_size(rows: Float[np.ndarray, "k 3"], size_px: tuple[int, int]) -> None:
    """Raise an OtherSizeError if confident points lie far outside of the photo.

    These are two points of a confidence of at least 0.3, or a quarter of those of at least 0.2.
    """
    seen, sure = (rows[:, 2] >= least for least in (MIN_CONFIDENCE, FAR_CONFIDENCE))
    far = seen & _find_far(rows, size_px)
    few = far.sum() < MIN_FAR_POINTS
    if few or ((far & sure).sum() < MIN_FAR_POINTS and far.sum() < MIN_FAR_SHARE * seen.sum()):
        return
    x, y = rows[seen, :2].max(axis=0)
    raise OtherSizeError(
        f"{OTHER_SIZE}: they reach x {x:.0f} and y {y:.0f}, the photo has"
        f" {size_px[0]}x{size_px[1]} px"
    )


def _is_in_corner(rows: Float[np.ndarray, "k 3"], size_px: tuple[int, int]) -> bool:
    """Whether all of many points, of all people, are in the upper left quarter."""
    places = rows[rows[:, 2] >= MIN_CONFIDENCE, :2]
    return len(places) >= MIN_POINTS_OF_SMALLER and bool((places <= np.array(size_px) / 2).all())


def _find_far(rows: Float[np.ndarray, "k 3"], size_px: tuple[int, int]) -> Bool[np.ndarray, "k"]:
    margin = FAR_OUTSIDE * np.array(size_px)
    outside = (rows[:, :2] < -margin) | (rows[:, :2] > size_px + margin)
    return outside[:, 0] | outside[:, 1]


def _parse(path: AnyPath) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OmfaError(str(error.strerror or error)) from None
    try:
        # PowerShell writes UTF-16
        return parse_json(data.decode(json.detect_encoding(data)).removeprefix("\ufeff"))
    except UnicodeDecodeError:
        raise OmfaError("not JSON: not text") from None
    except json.JSONDecodeError as error:
        where = f"damaged at line {error.lineno}, column {error.colno}"
        raise OmfaError(f"not JSON: {where if data.strip() else 'the file is empty'}") from None
    except ValueError as error:
        raise OmfaError(f"not JSON: {error}") from None


def _scale(
    people: Sequence[FilePerson], size_px: tuple[int, int]
) -> tuple[list[Float[np.ndarray, "25 3"]], bool]:
    """Return each person's rows in pixels of the photo, and whether the file has percent.

    Raises OtherAspectError if the frame differs.
    """
    size = np.array(size_px, float)
    seen = [person.rows[person.rows[:, 2] >= MIN_CONFIDENCE, :2] for person in people]
    places = np.concatenate([*seen, np.zeros((0, 2))])
    small = (np.abs(places) <= MAX_FRACTION).all(axis=1)
    are_fractions = len(places) > 0 and bool(small.mean() >= MIN_SMALL_SHARE)
    if are_fractions and (places < 0).any(axis=1).mean() > MIN_NEGATIVE_SHARE:
        raise OmfaError("expected coordinates in pixels or from 0 to 1, found -1 to 1")
    are_percent = not are_fractions and _are_percent(people, size_px)
    found = []
    for person in people:
        factors = np.ones(3)
        if person.frame_px is not None and not person.is_stretched:
            _require_aspect(person.frame_px, size_px)
        if are_fractions:
            factors[:2] = size
        elif are_percent:
            factors[:2] = size / 100
        elif person.frame_px is not None:
            factors[:2] = size / person.frame_px
        found.append(person.rows * factors)
    return found, are_percent


def _are_percent(people: Sequence[FilePerson], size_px: tuple[int, int]) -> bool:
    """Whether the points are percent of the photo's sides, and not pixels of a corner of it."""
    if min(size_px) < MIN_SIDE_PX or any(person.frame_px is not None for person in people):
        return False
    rows = np.concatenate([*(person.rows for person in people), np.zeros((0, 3))])
    places = rows[rows[:, 2] >= MIN_CONFIDENCE, :2]
    (least, most), (left, right) = PERCENT_RANGE, PERCENT_MIDDLE
    if not len(places) or places.min() < least or places.max() > most:
        return False
    for person in people:
        seen = person.rows[:, 2] >= MIN_CONFIDENCE
        if seen.sum() < MIN_POINTS_OF_SMALLER or not seen[HIP_ROWS].any():
            continue
        first, last = (edge(person.rows[seen, :2], axis=0) for edge in (np.min, np.max))
        is_tall = last[1] - first[1] >= MIN_PERCENT_HEIGHT and last[1] >= MIN_PERCENT_BOTTOM
        if is_tall and left <= (first[0] + last[0]) / 2 <= right:
            return True
    return False


def _require_aspect(frame_px: tuple[float, float], size_px: tuple[int, int]) -> None:
    (width, height), (photo_width, photo_height) = frame_px, size_px
    # the sides of a canvas of the photo's aspect, one of them as stated
    rounded = min(
        abs(height - width * photo_height / photo_width),
        abs(width - height * photo_width / photo_height),
    )
    is_stepped = width % CANVAS_STEP_PX == 0 and height % CANVAS_STEP_PX == 0
    if is_stepped and rounded <= CANVAS_STEP_PX / 2:
        return
    if abs(width / height * photo_height / photo_width - 1) > MAX_ASPECT_ERROR:
        raise OtherAspectError(
            f"{OTHER_ASPECT}: they are of an image of {width:.6g}x{height:.6g} px, the photo has"
            f" {photo_width}x{photo_height} px"
        )


def _choose(
    shown: Sequence[Float[np.ndarray, "25 3"]], size_px: tuple[int, int], index: int | None
) -> tuple[int, list[str]]:
    """Return the person's index, and a note if there was a choice."""
    seen = [rows[:, 2] >= MIN_CONFIDENCE for rows in shown]
    visible = [i for i, points in enumerate(seen) if points.sum() >= MIN_POINTS]
    if index is not None and shown:
        if index not in range(len(shown)):
            raise OmfaError(
                f"--person-index {index}: expected 0 to {len(shown) - 1}, the people of the file"
            )
        if index not in visible:
            raise NoPersonError(f"{NO_PERSON}: number {index} has no confident points")
        return index, []
    if not visible:
        weak = any(rows.any() for rows in shown)
        raise NoPersonError(f"{NO_PERSON}{': no confident points' if weak else ''}")
    sizes = [_compute_box_size(shown[i][seen[i], :2], size_px) for i in visible]
    notes = [f"{len(visible)} {SEVERAL}"] if len(visible) > 1 else []
    return visible[sizes.index(max(sizes))], notes


def _compute_box_size(
    places: Float[np.ndarray, "k 2"], size_px: tuple[int, int]
) -> tuple[float, float]:
    """Return area and half perimeter of the points' box within the photo."""
    places = places.clip(0, size_px)
    width, height = places.max(axis=0) - places.min(axis=0)
    return float(width * height), float(width + height)
