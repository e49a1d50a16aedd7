"""Augmentation of images, the same for all images of an example that must stay consistent."""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import FloatRange, TupleOf, check_fields

# Rec. 601 weights, as in Pillow's conversion to grey
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
GREY = np.float32(127.5)

# bounds of the settings
AUGMENT_BOUNDS = {
    "flip_prob": FloatRange(0, 1),
    "scale": TupleOf(FloatRange(0.1, 10), 2, 2),
    **{name: FloatRange(0, 0.9) for name in ("shift", "brightness", "contrast", "saturation")},
}


@dataclass(frozen=True)
class AugmentSettings:
    """Strength of the augmentation of training images; the defaults disable it.

    `flip_prob`: probability of mirroring all images of an example, letters on cloth included.
    `scale`: (minimum, maximum) magnification, log-uniform. `shift`: largest translation, as a share
    of the slot's sides; what leaves the slot is cropped. `brightness`, `contrast`, `saturation`:
    largest deviation of the factor from 1.
    """

    flip_prob: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        check_fields("config.data.augment.", AUGMENT_BOUNDS, self)
        if self.scale[0] > self.scale[1]:
            raise OmfaError(
                f"config.data.augment.scale: expected (minimum, maximum), got {self.scale}"
            )

    @functools.cached_property
    def active(self) -> bool:
        """True if any augmentation is enabled."""
        return self != AugmentSettings()


class Move(NamedTuple):
    """An affine move of a slot's content: scaling about the slot's centre, then translation.

    `shift` is (x, y) in units of the slot's width and height.
    """

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


class Augmentation(NamedTuple):
    """The augmentation of one example. `person` moves both the photo and its pose map."""

    flip: bool = False
    person: Move = Move()
    garment: Move = Move()
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def sample_augmentation(settings: AugmentSettings, rng: np.random.Generator) -> Augmentation:
    """Return a random augmentation of one example."""
    # always ten numbers: switching one setting on must not change the draws of the others
    u = rng.random(10)
    most = (settings.brightness, settings.contrast, settings.saturation)
    brightness, contrast, saturation = (1 + np.array(most) * (2 * u[7:] - 1)).tolist()
    return Augmentation(
        flip=bool(u[0] < settings.flip_prob),
        person=_move(settings, *u[1:4]),
        garment=_move(settings, *u[4:7]),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
    )


def apply_move(
    image: UInt8[np.ndarray, "h w 3"], slot: tuple[int, int], fill: int, move: Move
) -> UInt8[np.ndarray, "height_px width_px 3"]:
    """Return the image letterboxed into the slot and moved, with one resampling.

    Images of the same aspect ratio stay aligned under the same move, whatever their sizes.
    """
    if move == Move():
        return images.letterbox(image, *slot, fill=fill)
    # one resize from the source to the moved place: two resamplings would blur
    top, left, height, width = images.compute_letterbox_box(image.shape[:2], *slot)
    spans = [
        _span(offset, size, side, move.scale, shift)
        for offset, size, side, shift in (
            (left, width, slot[1], move.shift[0]),
            (top, height, slot[0], move.shift[1]),
        )
    ]
    frame = np.full((*slot, 3), fill, np.uint8)
    (x0, x1, from_x0, from_x1), (y0, y1, from_y0, from_y1) = spans
    if x0 < x1 and y0 < y1:
        h, w = image.shape[:2]
        box = (from_x0 * w, from_y0 * h, from_x1 * w, from_y1 * h)
        content = Image.fromarray(image).resize(
            (x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box=box
        )
        frame[y0:y1, x0:x1] = np.asarray(content)
    return frame


def adjust_colors(
    image: UInt8[np.ndarray, "h w 3"], change: Augmentation
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the photo with its brightness, contrast (about mid grey) and saturation adjusted.

    The contrast is about mid grey, not the image's mean, so that a garment keeps the same colour in
    all its images.
    """
    if (change.brightness, change.contrast, change.saturation) == (1.0, 1.0, 1.0):
        return image
    samples = image * np.float32(change.brightness)
    samples = (samples - GREY) * np.float32(change.contrast) + GREY
    if change.saturation != 1.0:
        grey = (samples @ LUMA)[..., None]
        samples = grey + (samples - grey) * np.float32(change.saturation)
    return np.clip(np.round(samples), 0, 255).astype(np.uint8)


def _move(settings: AugmentSettings, size: float, x: float, y: float) -> Move:
    # log-uniform: halving and doubling are equally likely
    low, high = settings.scale
    scale = low * (high / low) ** size
    return Move(float(scale), (settings.shift * (2 * x - 1), settings.shift * (2 * y - 1)))


def _span(
    offset: int, size: int, side: int, scale: float, shift: float
) -> tuple[int, int, float, float]:
    """Return (first, end) of the pixels that the image covers along one axis, and their source.

    The source is the interval of the image's length, in [0, 1], that maps to exactly these pixels.
    """
    start = (offset - side / 2) * scale + side / 2 + shift * side
    length = size * scale
    # 1e-6: rounding errors must not cost a pixel where the edge is meant to be at an integer
    first = max(0, math.ceil(start - 1e-6))
    end = min(side, math.floor(start + length + 1e-6))
    return first, end, max(0.0, (first - start) / length), min(1.0, (end - start) / length)
