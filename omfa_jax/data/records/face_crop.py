"""Cut the square face box out of a photo."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# (left, top, right, bottom) in pixels; may reach over the photo's edges
FaceBox = tuple[float, float, float, float]


def crop_face(
    image: UInt8[np.ndarray, "h w 3"], box: FaceBox, fill: int = 255
) -> UInt8[np.ndarray, "side side 3"]:
    """Return the square inside `box`; pixels outside the image are `fill`."""
    return np.array(crop_face_image(Image.fromarray(image), box, fill))


def crop_face_image(image: Image.Image, box: FaceBox, fill: int = 255) -> Image.Image:
    """Return the crop of `crop_face` for a Pillow image."""
    side = max(1, round(box[2] - box[0]))
    square = Image.new("RGB", (side, side), (fill, fill, fill))
    square.paste(image, (-round(box[0]), -round(box[1])))
    return square
