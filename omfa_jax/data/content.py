"""Faults that a picture's content shows: each has a name, so that they can be counted.

What is checked here is read by machines only later, when nobody looks: a garment that is an empty
page, a pose map without a body, a mask with greys.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data import schema

# kind of fault -> what it is about, for people
KINDS = {
    "unreadable": "files that cannot be read",
    "missing": "photos and garments that are not there",
    "absent": "label maps, keypoints or pose maps that are not there",
    "wrong_size": "pictures of another size than their photo's, or than most photos'",
    "grey_mask": "masks with greys, where only black and white are meant",
    "label_set": "label maps of another label set",
    "empty_garment": "garment pictures that show nothing",
    "no_face": "photos in which no face was found",
    "out_of_frame": "pose maps without a body",
    "shared_person": "people in more than one split",
    "duplicate": "photos that occur more than once",
    "damaged_record": "records that contradict themselves",
}
# training does without them; they must be known, but are no faults
NOTES = ("absent", "no_face")

# of 255: paper that is photographed unevenly has a standard deviation of 1 or 2
EMPTY_DEVIATION = 3.0
# of the picture: the smallest person of the data sets' photos covers about 4%
MIN_BODY_SHARE = 0.005
# of a mask's pixels; JPEG rings round an edge, so values near black and white count as such
MAX_GREY_SHARE, NEAR = 0.02, 32
MAX_ASPECT_ERROR = 0.02

Finding = tuple[str, str]


def record_findings(record: schema.Record) -> Iterator[Finding]:
    """Yield (kind, what) for every fault that a record's own pictures and numbers show."""
    wanted = {"person": True, "garment": True, "pose": record.has_pose}
    wanted["unpaired_garment"] = bool(record.unpaired_garment_key)
    stated = size_px = (record.height_px, record.width_px)
    for name in (name for name, is_there in wanted.items() if is_there):
        try:
            picture = images.read_rgb(getattr(record, name), name)
        except OmfaError as error:
            yield "unreadable", str(error)
            continue
        if name == "person":
            size_px = picture.shape[:2]
            if size_px != stated:
                yield "damaged_record", f"person is {size_px}, the record says {stated}"
        elif name == "pose":
            yield from pose_findings(picture, *size_px)
        elif is_empty(picture):
            yield "empty_garment", f"{name} is one colour all over"
    left, top, right, bottom = record.face_box_px
    if not record.has_face:
        yield "no_face", "its face picture is white"
    elif not (right > left and bottom > top):
        yield "damaged_record", f"empty face box {record.face_box_px}"


def pose_findings(
    pose: UInt8[np.ndarray, "h w 3"], height_px: int, width_px: int
) -> Iterator[Finding]:
    """Yield the faults of a pose map (a body on black) for a photo of that size."""
    height, width = pose.shape[:2]
    if abs(width / height * height_px / width_px - 1) > MAX_ASPECT_ERROR:
        yield "wrong_size", f"pose map of {width}x{height} px for a photo of {width_px}x{height_px}"
    body = (pose > 8).any(axis=2)
    if body.mean() < MIN_BODY_SHARE:
        yield "out_of_frame", f"the pose map shows a body on {100 * body.mean():.2f}% of it"


def is_empty(picture: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Tell whether a picture is one colour all over."""
    return bool(picture.std(axis=(0, 1)).max() < EMPTY_DEVIATION)


def mask_findings(mask: UInt8[np.ndarray, "h w"]) -> Iterator[Finding]:
    """Yield the fault of a mask with greys (a grey agnostic picture taken for a mask, say)."""
    grey = float(((mask >= NEAR) & (mask <= 255 - NEAR)).mean())
    if grey > MAX_GREY_SHARE:
        yield "grey_mask", f"{100 * grey:.0f}% of its pixels are neither black nor white"
