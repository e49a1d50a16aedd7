"""Read items with a photo of a person and one of the garment: VITON-HD and DressCode."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.body_file import read_body_source
from omfa_jax.body.keypoints.keypoint_reader import KeypointsError, read_keypoints
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders import face_box
from omfa_jax.data.builders.garment_cutout import MIN_GARMENT_AREA, cut_out_garment
from omfa_jax.data.builders.label_sets import Category, LabelSet
from omfa_jax.data.builders.raw_files import (
    read_image_and_bytes,
    read_image_bytes,
    read_optional,
    read_optional_labels,
)
from omfa_jax.data.records.record_schema import Record

# the flaw of a record that has another garment to put on, but not what the person wears
NO_OWN_GARMENT = "no garment of its own: usable for unpaired try-on only"


@dataclass(frozen=True)
class PairedItem:
    """The files of one person; None for missing files.

    `category`: where the garment is worn according to the data set, "" if it does not state it.
    `person_index`: the person of a keypoints file with several, None for the largest.
    """

    key: str
    split: str
    person: AnyPath
    garment: AnyPath | None
    parse: AnyPath | None
    keypoints: AnyPath | None
    pose: AnyPath | None
    unpaired_key: str
    unpaired: AnyPath | None
    category: Category | Literal[""] = ""
    person_index: int | None = None


def read_paired_item(
    item: PairedItem,
    parsing: LabelSet,
    *,
    map_name: str,
    garments: str,
    pairs: str,
) -> tuple[Record, list[str]]:
    """Return the item's record and its flaws; OmfaError if photo or garment are unusable.

    `map_name`, `garments`, `pairs`: the names of the label map, the folder of shop photos and the
    list of pairs in the flaws.
    """
    flaws: list[str] = []
    person, photo = read_image_and_bytes(item.person, "person photo")
    height_px, width_px = photo.shape[:2]
    labels = read_optional_labels(item.parse, parsing, (height_px, width_px), flaws, map_name)
    category = item.category or ("" if labels is None else _category(labels, parsing))
    garment = b""
    if item.garment is not None:
        garment, _ = read_image_and_bytes(item.garment, "garment")
    else:
        try:
            worn = _cut_out_worn(photo, labels, parsing, category, map_name)
            garment = images.encode_jpeg(worn)
            flaws.append(f"no in-shop garment in {garments}; the garment was cut out of the photo")
        except OmfaError:
            # a list of other garments to put on needs no photo of the own one; training does
            if item.unpaired is None or item.split == "train":
                raise
            flaws.append(NO_OWN_GARMENT)
    keypoints = read_item_keypoints(item, (width_px, height_px), flaws)
    box = face_box.find_face_box(keypoints, labels, height_px, width_px, parsing)
    if box is None:
        flaws.append("no face found; its image is white")
    pose = read_optional(read_image_bytes, item.pose, "pose map", flaws)
    unpaired = None
    if item.unpaired is not None:
        unpaired = read_optional(read_image_bytes, item.unpaired, "unpaired garment", flaws)
    elif item.unpaired_key:
        flaws.append(f"the unpaired garment's file is missing in {garments} (see the {pairs})")
    if not garment and unpaired is None:
        raise OmfaError("no garment: neither in-shop nor worn, and the unpaired one is damaged")
    record = Record(
        key=item.key,
        split=item.split,
        person=person,
        height_px=height_px,
        width_px=width_px,
        garment=garment,
        garment_source=("in_shop" if item.garment else "worn") if garment else "",
        category=category,
        has_face=box is not None,
        face_box_px=box or (0.0, 0.0, 0.0, 0.0),
        has_pose=pose is not None,
        pose=pose or b"",
        body_source=read_body_source(item.pose) if pose else "",
        unpaired_garment_key=item.unpaired_key if unpaired else "",
        unpaired_garment=unpaired or b"",
    )
    return record, flaws


def read_item_keypoints(
    item: PairedItem, size_px: tuple[int, int], flaws: list[str]
) -> Float[np.ndarray, "25 3"] | None:
    """Return the keypoints of the item's photo of `size_px` (width, height); None if unusable.

    The reason, and a choice among several people, are added to `flaws`.
    """
    if item.keypoints is None:
        flaws.append("no keypoints")
        return None
    try:
        found = read_keypoints(
            item.keypoints, size_px, photo=item.person, person_index=item.person_index
        )
    except KeypointsError as error:
        # flaws of one kind are identical, so that the report counts them
        flaws.append(error.summary or f"unusable keypoints ({error})")
        return None
    flaws += found.notes
    return found.rows


def _category(labels: UInt8[np.ndarray, "h w"], parsing: LabelSet) -> Category | Literal[""]:
    # The shop photos are of tops and dresses. Trousers may cover more of the photo without being
    # the garment: they count only if there is neither.
    top = parsing.find_category(labels, ("upper", "dress"))
    return top or parsing.find_category(labels, ("lower",), MIN_GARMENT_AREA)


def _cut_out_worn(
    photo: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"] | None,
    parsing: LabelSet,
    category: Category | Literal[""],
    map_name: str,
) -> UInt8[np.ndarray, "h w 3"]:
    if labels is None:
        raise OmfaError(
            f"no in-shop garment, and no {map_name} to cut the garment out of the photo"
        )
    worn = cut_out_garment(photo, labels, parsing, category) if category else None
    if worn is None:
        names = f" ({', '.join(parsing.garments[category])})" if category else ""
        raise OmfaError(
            f"no in-shop garment, and the {map_name} shows no garment to cut out{names}"
        )
    return worn
