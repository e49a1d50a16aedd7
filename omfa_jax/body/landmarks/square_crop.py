"""Square, rotated parts of a photo as network inputs, and the way back to the photo's pixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

Border = Literal["edge", "zero"]


@dataclass(frozen=True)
class SquareCrop:
    """A square of a photo: centre and side in pixels, and the angle of its x axis in radians.

    It may reach beyond the photo. Pixel (0, 0) of the photo covers 0..1 on both axes.
    """

    center_px: tuple[float, float]
    side_px: float
    angle: float = 0.0

    @property
    def rotation(self) -> Float[np.ndarray, "2 2"]:
        """The matrix from the crop's axes to the photo's."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])

    def to_photo(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Return the photo's pixels of points given as shares (0..1) of the crop's sides."""
        return (points - 0.5) @ self.rotation.T * self.side_px + self.center_px

    def scale(self, factor: float) -> "SquareCrop":
        """Return the crop of the same part in a photo that is `factor` times as large."""
        x, y = self.center_px
        return SquareCrop((x * factor, y * factor), self.side_px * factor, self.angle)


def cut(
    photo: UInt8[np.ndarray, "h w 3"], crop: SquareCrop, size_px: int, border: Border
) -> Float32[np.ndarray, "size_px size_px 3"]:
    """Return the crop in 0..255, sampled bilinearly at the centres of its pixels.

    `border`: what lies beyond the photo, its edge's pixels or zeros. The two networks were trained
    with different ones, and the wrong one moves points by many pixels.
    """
    height, width = photo.shape[:2]
    shares = (np.arange(size_px) + 0.5) / size_px
    grid = np.stack(np.meshgrid(shares, shares), axis=-1)
    x, y = np.moveaxis(crop.to_photo(grid) - 0.5, -1, 0)
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right_share = (x - left).astype(np.float32)[..., None]
    lower_share = (y - top).astype(np.float32)[..., None]

    def read(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        pixels = photo[rows.clip(0, height - 1), columns.clip(0, width - 1)].astype(np.float32)
        if border == "zero":
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            pixels *= inside[..., None]
        return pixels

    upper = read(top, left) * (1 - right_share) + read(top, left + 1) * right_share
    lower = read(top + 1, left) * (1 - right_share) + read(top + 1, left + 1) * right_share
    return upper * (1 - lower_share) + lower * lower_share


def paste_mask(
    mask: Float[np.ndarray, "n n"], crop: SquareCrop, size_px: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Return a crop's mask in a photo of `size_px` (width, height), 0 outside of the crop."""
    # Pillow's transform maps the centres of output pixels to the input, whose border is 0 here
    padded = np.pad(mask.astype(np.float32), 1)
    inverse = crop.rotation.T * len(mask) / crop.side_px
    offset = len(mask) / 2 + 1 - inverse @ crop.center_px
    affine = (*inverse[0], offset[0], *inverse[1], offset[1])
    image = Image.fromarray(padded).transform(
        size_px, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    return np.asarray(image)
