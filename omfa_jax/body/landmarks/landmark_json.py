"""Landmarks as JSON: a file per photo, which `read_keypoints` reads like those of other tools.

    {"format": "omfa_landmarks", "version": 1, "image_name": "NAME.jpg",
     "image_width": W, "image_height": H,
     "people": [{"score": s, "box_px": [x0, y0, x1, y1],
                 "keypoints": [[x, y, confidence], ...],
                 "visibility": [...], "presence": [...], "world_m": [[x, y, z], ...]}, ...]}

Lists have 33 entries, in the order of LANDMARK_NAMES; people are the largest first. x and y are
pixels of the upright photo, and world_m is as in `PersonLandmarks`. The confidence is the smaller
of visibility and presence, or 0 for the face of somebody who looks away. The mask is not stored:
`read_person` finds it in the photo again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.landmarks.person_landmarks import (
    FACE_LANDMARKS,
    LANDMARKS,
    PersonLandmarks,
    find_people,
)
from omfa_jax.core.errors import OmfaError, describe_damage
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath

FORMAT, VERSION = "omfa_landmarks", 1
# a hundredth of a pixel, a tenth of a millimetre
PX_DIGITS, SHARE_DIGITS, METRE_DIGITS = 2, 4, 4
# median distance of a photo's landmarks from the file's, as a share of the person's box
SAME_PERSON = 0.03


def make_document(
    people: Sequence[PersonLandmarks], image_name: str, size_px: tuple[int, int]
) -> dict[str, Any]:
    """Return the JSON document of a photo of `size_px` (width, height)."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "image_name": image_name,
        "image_width": size_px[0],
        "image_height": size_px[1],
        "people": [_make_person(person) for person in people],
    }


def is_landmark_file(path: AnyPath) -> bool:
    """Return whether a file's format is that of `make_document`; False if it cannot be read."""
    try:
        document = parse_json(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def read_person(
    path: AnyPath, index: int, photo: UInt8[np.ndarray, "h w 3"]
) -> tuple[PersonLandmarks, bool]:
    """Return person number `index` of a file, in pixels of its photo, and whether it has a mask.

    The mask is that of the same person in the photo. If nobody there has these landmarks, because
    the file was edited or is another tool's, it is empty. Raises OmfaError if the file is damaged.
    """
    size_px = (photo.shape[1], photo.shape[0])
    try:
        document = parse_json(path.read_text())
        node = document["people"][index]
        scale = np.divide(size_px, (document["image_width"], document["image_height"]))
        x0, y0, x1, y1 = np.array(node["box_px"], float) * np.tile(scale, 2)
        person = PersonLandmarks(
            points_px=_read_rows(node["keypoints"], 3)[:, :2] * scale,
            world_m=_read_rows(node["world_m"], 3),
            visibility=_read_rows(node["visibility"]),
            presence=_read_rows(node["presence"]),
            score=float(node["score"]),
            box_px=(float(x0), float(y0), float(x1), float(y1)),
            mask=np.zeros(photo.shape[:2]),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise OmfaError(
            f"landmarks {path}: damaged ({describe_damage(error)}); find them again with"
            " omfa data keypoints --overwrite"
        ) from None
    limit = SAME_PERSON * max(x1 - x0, y1 - y0)
    for other in find_people(photo):
        distances = np.linalg.norm(other.points_px - person.points_px, axis=1)
        if np.median(distances) <= limit:
            return replace(person, mask=other.mask), True
    return person, False


def _read_rows(values: Any, *columns: int) -> Float[np.ndarray, "33 *c"]:
    rows = np.array(values, np.float64)
    if rows.shape != (LANDMARKS, *columns) or not np.isfinite(rows).all():
        raise ValueError(f"expected {LANDMARKS} finite rows, found shape {rows.shape}")
    return rows


def _make_person(person: PersonLandmarks) -> dict[str, Any]:
    places = np.round(person.points_px, PX_DIGITS).tolist()
    sure = person.confidence.copy()
    if person.looks_away:
        # so that nobody takes the back of the head for a face
        sure[FACE_LANDMARKS] = 0
    confidences = np.round(sure, SHARE_DIGITS).tolist()
    return {
        "score": round(person.score, SHARE_DIGITS),
        "box_px": [round(value, PX_DIGITS) for value in person.box_px],
        "keypoints": [[*place, sure] for place, sure in zip(places, confidences, strict=True)],
        "visibility": np.round(person.visibility, SHARE_DIGITS).tolist(),
        "presence": np.round(person.presence, SHARE_DIGITS).tolist(),
        "world_m": np.round(person.world_m, METRE_DIGITS).tolist(),
    }
