"""Contact sheets: labelled columns of images, one example per row."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from omfa_jax.core.images import letterbox

GAP_PX = 4
LABEL_PX = 14


def draw_sheet(
    columns: Mapping[str, Iterable[UInt8[np.ndarray, "_ _ 3"]]], height_px: int, width_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return one image with a labelled column per entry and one example per row.

    Images are letter-boxed into cells of (height_px, width_px); shorter columns are padded with
    white.
    """
    # lists first: columns may be generators, and the sheet's height needs their lengths
    listed = {label: list(images) for label, images in columns.items()}
    rows = max(map(len, listed.values()), default=0)
    step_x, step_y = width_px + GAP_PX, height_px + GAP_PX
    size = (step_x * len(listed) + GAP_PX, step_y * rows + GAP_PX + LABEL_PX)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for x, (label, images) in enumerate(listed.items()):
        left = GAP_PX + x * step_x
        draw.text((left, 1), label, fill="black")
        for y, image in enumerate(images):
            cell = letterbox(np.asarray(image), height_px, width_px)
            canvas.paste(Image.fromarray(cell), (left, LABEL_PX + GAP_PX + y * step_y))
    return np.asarray(canvas)
