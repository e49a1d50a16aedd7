"""Find faults in the content of records: blank garments, pose maps without a body, grey masks.

Every fault has a kind, so that a report can count them. Training would read such records silently.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.records import record_schema

# kind of fault -> description in reports
FAULT_KINDS = {
    "unreadable": "files that cannot be read",
    "missing": "photos and garments without a file",
    "absent": "label maps, keypoints or pose maps without a file",
    "wrong_size": "images whose size differs from their photo's, or photos from most others",
    "keypoints": "keypoints of another size, aspect ratio or name than their photo",
    "grey_mask": "masks that are not black and white",
    "label_set": "label maps of another label set",
    "empty_garment": "blank garment images",
    "no_face": "photos without a detected face",
    "no_person": "keypoints without a person",
    "several_people": "keypoints of several people",
    "found_keypoints": "keypoints found by omfa data keypoints",
    "out_of_frame": "pose maps without a body",
    "shared_person": "people in more than one split",
    "duplicate": "photos that occur more than once",
    "damaged_record": "inconsistent records",
}
# reported, but no faults: training works without them
HARMLESS_KINDS = ("absent", "no_face", "no_person", "several_people", "found_keypoints")

# of 255: unevenly lit blank paper has a standard deviation of 1 to 2
EMPTY_DEVIATION = 3.0
# of the image: the smallest person in the data sets covers about 4%
MIN_BODY_SHARE = 0.005
# share of a mask's pixels; values within NEAR of black or white do not count: JPEG rings at edges
MAX_GREY_SHARE, NEAR = 0.02, 32
MAX_ASPECT_ERROR = 0.02

Finding = tuple[str, str]


def find_record_faults(record: record_schema.Record) -> Iterator[Finding]:
    """Yield (kind, description) of every fault in a record's images and fields."""
    wanted = {"person": True, "pose": record.has_pose}
    wanted["garment"] = bool(record.garment_source or not record.unpaired_garment_key)
    wanted["unpaired_garment"] = bool(record.unpaired_garment_key)
    stated = size_px = (record.height_px, record.width_px)
    for name in (name for name, is_there in wanted.items() if is_there):
        try:
            image = images.read_rgb(getattr(record, name), name)
        except OmfaError as error:
            yield "unreadable", str(error)
            continue
        if name == "person":
            size_px = image.shape[:2]
            if size_px != stated:
                yield "damaged_record", f"person is {size_px} px, the record says {stated}"
        elif name == "pose":
            yield from find_pose_faults(image, *size_px)
        elif is_empty(image):
            yield "empty_garment", f"{name} is blank"
    left, top, right, bottom = record.face_box_px
    if not record.has_face:
        yield "no_face", "its face image is white"
    elif not (right > left and bottom > top):
        yield "damaged_record", f"empty face box {record.face_box_px}"


def find_pose_faults(
    pose: UInt8[np.ndarray, "h w 3"], height_px: int, width_px: int
) -> Iterator[Finding]:
    """Yield the faults of a pose map (a body on black) for a photo of this size."""
    height, width = pose.shape[:2]
    if abs(width / height * height_px / width_px - 1) > MAX_ASPECT_ERROR:
        yield "wrong_size", f"pose map of {width}x{height} px for a photo of {width_px}x{height_px}"
    body = (pose > 8).any(axis=2)
    if body.mean() < MIN_BODY_SHARE:
        yield "out_of_frame", f"the body covers {100 * body.mean():.2f}% of the pose map"


def is_empty(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Return whether an image is a single colour."""
    return bool(image.std(axis=(0, 1)).max() < EMPTY_DEVIATION)


def find_mask_faults(mask: UInt8[np.ndarray, "h w"]) -> Iterator[Finding]:
    """Yield a fault if the mask is not black and white (a grey agnostic image, for example)."""
    grey = float(((mask >= NEAR) & (mask <= 255 - NEAR)).mean())
    if grey > MAX_GREY_SHARE:
        yield "grey_mask", f"{100 * grey:.0f}% of its pixels are neither black nor white"
