"""Images of any kind that callers have, as RGB arrays: files, Pillow images and arrays."""

import io
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import from_signed, read_rgb

log = logging.getLogger(__name__)

# a path, a Pillow image, or an array (h, w, 3): uint8, or float32 in [-1, 1]
ImageLike = str | os.PathLike | Image.Image | np.ndarray
# one of them, a sequence of them, or an array (b, h, w, 3)
ImagesLike = ImageLike | Sequence[ImageLike]

EXPECTED = "a path, a Pillow image, or an array (height, width, 3) of pixels"
# rounding of float32 beyond -1 and 1
ROUNDING = 1e-3
# the darkest pixel of a photo in 0..1, at most
DARKEST_FRACTION = 0.05
# what PNG cannot hold
TIFF_MODES = ("CMYK", "YCbCr", "LAB", "F")


def read_image_like(image: Any, what: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image as RGB; files and Pillow images are converted by `core.images.read_rgb`.

    `what` names the image in messages. Raises OmfaError for a file that cannot be read, and for
    an array that holds no RGB or grey pixels.
    """
    if isinstance(image, str | os.PathLike):
        return read_rgb(image, what)
    if isinstance(image, Image.Image):
        return read_rgb(_encode(image), what)
    array = to_array(image, what)
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or min(array.shape[:2]) < 2:
        raise OmfaError(f"{what}: expected {EXPECTED}, got an array of shape {array.shape}")
    if array.shape[2] == 4:
        if array.dtype != np.uint8:
            raise OmfaError(f"{what}: expected uint8 pixels with transparency, got {array.dtype}")
        return read_image_like(Image.fromarray(array), what)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    require_signed(array, what)
    return from_signed(array.astype(np.float32))


def to_array(image: Any, what: str) -> np.ndarray:
    """Return what is an array, of numpy or not, as a numpy array; OmfaError if it is none."""
    if isinstance(image, np.ndarray):
        return image
    if not hasattr(image, "__array__"):
        raise OmfaError(f"{what}: expected {EXPECTED}, got {type(image).__name__}")
    return np.asarray(image)


def require_signed(array: np.ndarray, what: str) -> None:
    """Raise an OmfaError unless an array holds floats in [-1, 1]; warn of 0 to 1."""
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if not floats:
        raise OmfaError(f"{what}: expected uint8 or float32 pixels, got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    # written so that NaN fails too
    if not (low >= -1 - ROUNDING and high <= 1 + ROUNDING):
        raise OmfaError(
            f"{what}: expected float pixels from -1 to 1, got {low:g} to {high:g}; give pixels of"
            " 0 to 255 as uint8"
        )
    # a pale garment has no dark pixel either, but hardly one that is just not darker than grey
    if 0 <= low < DARKEST_FRACTION and low != high:
        log.warning(
            "%s: float pixels are from -1 to 1, and these are %.3g to %.3g: if they are from 0 to"
            " 1, black is read as grey; give 2 * x - 1, or uint8",
            *(what, low, high),
        )


def _encode(image: Image.Image) -> bytes:
    """Return a Pillow image as a file's bytes: they are read with the rules of files."""
    buffer = io.BytesIO()
    kind = "TIFF" if image.mode in TIFF_MODES else "PNG"
    options = {} if kind == "TIFF" else {"compress_level": 1}
    image.save(buffer, kind, exif=image.getexif(), **options)
    return buffer.getvalue()
