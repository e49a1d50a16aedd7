"""Landmarks as JSON: a file per photo, which `read_keypoints` reads like those of other tools.

    {"format": "omfa_landmarks", "version": 1, "image_name": "NAME.jpg",
     "image_width": W, "image_height": H,
     "people": [{"score": s, "box_px": [x0, y0, x1, y1],
                 "keypoints": [[x, y, confidence], ...],
                 "visibility": [...], "presence": [...], "world_m": [[x, y, z], ...]}, ...]}

Lists have 33 entries, in the order of LANDMARK_NAMES; people are the largest first. x and y are
pixels of the upright photo, and world_m is as in `PersonLandmarks`. The confidence is the smaller
of visibility and presence, or 0 for the face of somebody who looks away. The mask is not stored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.landmarks.person_landmarks import FACE_LANDMARKS, PersonLandmarks

FORMAT, VERSION = "omfa_landmarks", 1
# of a file; the format is its first key
BEGINNING = f'{{"format": "{FORMAT}"'.encode()
# a hundredth of a pixel, a tenth of a millimetre
PX_DIGITS, SHARE_DIGITS, METRE_DIGITS = 2, 4, 4


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


def is_landmark_file(path: Path) -> bool:
    """Return whether a file begins as those of `make_document`; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(BEGINNING)) == BEGINNING
    except OSError:
        return False


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
