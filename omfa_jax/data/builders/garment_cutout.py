"""Cut the worn garment out of a photo of a person, for data sets without shop photos."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omfa_jax.core import images
from omfa_jax.data.builders.label_sets import Category, LabelSet

MIN_GARMENT_AREA = 0.005
CUTOUT_MARGIN = 0.05


def cut_out_garment(
    photo: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h2 w2"],
    label_set: LabelSet,
    category: Category,
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the garment of one category on white, letterboxed to the photo's size.

    The crop is its bounding box plus a margin of 5% of the longer side. Occluders (arms, hair,
    bags) are white. None if the garment covers less than 0.5% of the photo.
    """
    height, width = photo.shape[:2]
    worn = label_set.make_garment_mask(resize_labels(labels, height, width), category)
    if worn.mean() < MIN_GARMENT_AREA:
        return None
    rows, columns = np.flatnonzero(worn.any(1)), np.flatnonzero(worn.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cut = np.where(worn[..., None], photo, np.uint8(255))[top:bottom, left:right]
    margin = round(CUTOUT_MARGIN * max(cut.shape[:2]))
    framed = np.pad(cut, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    return images.letterbox(framed, height, width)


def resize_labels(
    labels: UInt8[np.ndarray, "h w"], height_px: int, width_px: int
) -> UInt8[np.ndarray, "height_px width_px"]:
    """Return the label map resized by nearest neighbour, which keeps the ids valid."""
    if labels.shape == (height_px, width_px):
        return labels
    sized = Image.fromarray(labels).resize((width_px, height_px), Image.Resampling.NEAREST)
    return np.array(sized)
