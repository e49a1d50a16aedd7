"""Where a model's person slot lies in a photo, and the way back from the slot to the photo."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.body_box import BodyBox
from omfa_jax.body.camera import Camera
from omfa_jax.core.images import letterbox, resize, to_signed, unletterbox

# around the body, as a share of its longer side: hair and clothes reach beyond an SMPL-X body
MARGIN = 0.1
# a crop that enlarges the person by less than this is not worth a seam in the photo
MIN_GAIN = 1.25
# width of the blend at a crop's inner edges, as a share of its longer side
SEAM = 0.01
# aspect ratios that differ by rounding: a pixel, and 0.2%
ROUNDING_PX, ROUNDING_SHARE = 1.0, 0.002

# (left, top, right, bottom) in whole pixels
Crop = tuple[int, int, int, int]
SizePx = tuple[int, int]


@dataclass(frozen=True)
class PhotoFrame:
    """The part of a photo that is letter-boxed into a slot; sizes are (height, width) in pixels.

    `crop` is (left, top, right, bottom); None is the whole photo.
    """

    photo_px: SizePx
    slot_px: SizePx
    crop: Crop | None = None

    @property
    def part_px(self) -> SizePx:
        """The (height, width) of the part in the photo."""
        if self.crop is None:
            return self.photo_px
        left, top, right, bottom = self.crop
        return bottom - top, right - left

    def fit(
        self, image: UInt8[np.ndarray, "h w 3"], fill: int
    ) -> Float[np.ndarray, "1 height width 3"]:
        """Return the part of an image in the slot, in [-1, 1], with margins of the level `fill`.

        An image of another size than the photo's, such as a pose map of a scaled copy, is resized.
        """
        if self.crop is not None:
            left, top, right, bottom = self.crop
            image = resize(image, *self.photo_px)[top:bottom, left:right]
        return to_signed(letterbox(image, *self.slot_px, fill))[None]

    def fit_camera(self, camera: Camera) -> Camera:
        """Return the camera of the slot's image, from that of the photo or of a scaled copy."""
        height, width = self.photo_px
        camera = camera.resize(width, height)
        if self.crop is not None:
            camera = camera.crop(*self.crop[:2], *self.part_px[::-1])
        return camera.resize(*self.slot_px[::-1])

    def restore(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        photo: UInt8[np.ndarray, "h w 3"] | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return a slot's image without its margins, at the photo's size.

        Around a crop there is `photo`, white without one; the edges of the crop are blended.
        """
        part = unletterbox(image, *self.part_px)
        if self.crop is None:
            return part
        left, top, right, bottom = self.crop
        whole = np.full((*self.photo_px, 3), 255, np.uint8) if photo is None else photo.copy()
        place = whole[top:bottom, left:right]
        height, width = self.photo_px
        seam = max(1, round(SEAM * max(self.part_px)))
        rows = _make_ramp(bottom - top, seam, top > 0, bottom < height)
        columns = _make_ramp(right - left, seam, left > 0, right < width)
        share = (rows[:, None] * columns)[..., None]
        place[:] = np.round(place + share * (part.astype(np.float32) - place))
        return whole


def choose_crop(photo_px: SizePx, slot_px: SizePx, body: BodyBox | None) -> Crop | None:
    """Return the part of a photo to sample: the body with a margin, at the slot's aspect.

    None, for the whole photo, if the part would not show the person at least 1.25 times as large,
    or without a `body`. `photo_px` and `slot_px` are (height, width).
    """
    if body is None:
        return None
    left, top, right, bottom = body
    margin = MARGIN * max(right - left, bottom - top)
    width = min(right - left + 2 * margin, photo_px[1])
    height = min(bottom - top + 2 * margin, photo_px[0])
    aspect = slot_px[1] / slot_px[0]
    width, height = max(width, height * aspect), max(height, width / aspect)
    left, right = _place(left, right, width, photo_px[1])
    top, bottom = _place(top, bottom, height, photo_px[0])
    part_px = bottom - top, right - left
    if _compute_scale(part_px, slot_px) < MIN_GAIN * _compute_scale(photo_px, slot_px):
        return None
    return left, top, right, bottom


def have_one_aspect(first_px: SizePx, second_px: SizePx) -> bool:
    """Return whether one (height, width) is a scaled copy of the other, but for rounding."""
    (height, width), (other_height, other_width) = sorted((first_px, second_px))
    expected = height * other_width / width
    return abs(expected - other_height) <= (
        ROUNDING_PX * max(1.0, other_width / width) + ROUNDING_SHARE * other_height
    )


def format_size(size_px: SizePx) -> str:
    """Return (height, width) as WIDTHxHEIGHT px, for messages."""
    return f"{size_px[1]}x{size_px[0]} px"


def _place(low: float, high: float, wanted: float, limit: int) -> tuple[int, int]:
    """Return whole bounds of a span of `wanted` px around low..high, moved into 0..limit."""
    span = min(wanted, limit)
    start = min(max((low + high - span) / 2, 0.0), limit - span)
    return math.floor(start), min(limit, math.ceil(start + span))


def _compute_scale(size_px: SizePx, slot_px: SizePx) -> float:
    return min(slot_px[0] / size_px[0], slot_px[1] / size_px[1])


def _make_ramp(length: int, seam: int, first: bool, last: bool) -> Float[np.ndarray, "n"]:
    """Return the weights of a crop along one side: rising from the edges that are blended."""
    weights = np.ones(length, np.float32)
    rise = (np.arange(min(seam, length), dtype=np.float32) + 0.5) / seam
    if first:
        weights[: len(rise)] = rise
    if last:
        weights[length - len(rise) :] *= rise[::-1]
    return weights
