"""Photos, their colours, pose maps and frames for omfa_torch.py, which lies next to this file.

A model's images have the size of its slots. Photos are letter-boxed into them; where the person
is small in a photo, the part around the body of the pose map is used. `Frame.restore` is the way
back: the result at the photo's size. Requires numpy and Pillow.
"""

import io
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

WHITE, BLACK = 255, 0
# as in `omfa sample`: margin around the body, the least gain that is worth a crop, the blended
# edge of a crop, the contrast of a pose map's body, and what may be cut off without a pose
MARGIN, MIN_GAIN, SEAM, MAP_CONTRAST, MAX_CUT = 0.1, 1.25, 0.01, 24, 0.05


class InputError(Exception):
    """An error in the user's input; its message is one line."""


@dataclass(frozen=True)
class Frame:
    """The part of a photo in a slot: sizes are (height, width), `crop` is its box or None."""

    photo_px: tuple[int, int]
    slot_px: tuple[int, int]
    crop: tuple[int, int, int, int] | None = None

    @property
    def part_px(self) -> tuple[int, int]:
        """The part's (height, width) in the photo."""
        if self.crop is None:
            return self.photo_px
        left, top, right, bottom = self.crop
        return bottom - top, right - left

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the part of the photo, or of an image of a scaled copy."""
        if self.crop is None:
            return image
        left, top, right, bottom = self.crop
        return resize(image, *self.photo_px)[top:bottom, left:right]

    def restore(self, image: np.ndarray, photo: np.ndarray | None = None) -> np.ndarray:
        """Return a slot's image without its margins at the photo's size, pasted into `photo`."""
        top, left, height, width = place(self.part_px, *self.slot_px)
        part = resize(image[top : top + height, left : left + width], *self.part_px)
        if self.crop is None or photo is None:
            return part
        left, top, right, bottom = self.crop
        whole = photo.copy()
        seam = max(1, round(SEAM * max(self.part_px)))
        rows = _make_ramp(bottom - top, seam, top > 0, bottom < self.photo_px[0])
        columns = _make_ramp(right - left, seam, left > 0, right < self.photo_px[1])
        before = whole[top:bottom, left:right]
        share = (rows[:, None] * columns)[..., None]
        before[:] = np.round(before + share * (part.astype(np.float32) - before))
        return whole


def choose_frame(
    photo: np.ndarray | None,
    pose: np.ndarray | None,
    slot_px: tuple[int, int],
    *,
    crop: bool = True,
) -> Frame | None:
    """Return the frame of a photo and its pose map; None if nothing says where the person is.

    A pose map of another aspect than the photo's has a frame of its own.
    """
    if photo is None:
        return None if pose is None else Frame(_get_size(pose), slot_px)
    (height, width), aspect = _get_size(photo), slot_px[1] / slot_px[0]
    whole = Frame((height, width), slot_px)
    if pose is None:
        return None if width / height > (1 + MAX_CUT) * aspect else whole
    if not _have_one_aspect(_get_size(pose), whole.photo_px):
        return Frame(_get_size(pose), slot_px)
    box = _find_box(pose) if crop else None
    if box is None:
        return whole
    across, down = width / pose.shape[1], height / pose.shape[0]
    left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    margin = MARGIN * max(right - left, bottom - top)
    wide, high = min(right - left + 2 * margin, width), min(bottom - top + 2 * margin, height)
    wide, high = max(wide, high * aspect), max(high, wide / aspect)
    left, right = _place_span(left, right, wide, width)
    top, bottom = _place_span(top, bottom, high, height)
    part = Frame((height, width), slot_px, (left, top, right, bottom))
    gain = _compute_scale(part.part_px, slot_px) / _compute_scale(whole.photo_px, slot_px)
    return part if gain >= MIN_GAIN else whole


def read(path: str | Path, flag: str, load: Callable[[str | Path], np.ndarray]) -> np.ndarray:
    """Return `load(path)`; its errors name the flag."""
    try:
        return load(path)
    except Exception as error:  # decoders raise errors of many types for damaged files
        raise InputError(f"{flag}: cannot read {path}: {format_error(error)}") from None


def require_local(path: str | Path, flag: str) -> None:
    """Raise an InputError for a URL, which would be written to a folder of its name."""
    # Path has made "gs://bucket/x" into "gs:/bucket/x"
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(path))
    if found:
        raise InputError(f"{flag}: {found[1]}:// is not supported, got {path}; give a local path")


def convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the image as RGB, in sRGB by its colour profile; an unusable profile is ignored."""
    try:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        is_cmyk, is_grey = image.mode == "CMYK", image.mode in ("1", "L", "LA")
        if not {"RGB": not is_cmyk, "L": is_grey, "CMYK": is_cmyk}[mode]:
            raise ValueError(f"it is for {mode} and the image is {image.mode}")
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        # exact for greys
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
        levels = [np.linspace(0, 255, 9).astype(np.uint8)] * 3
        lattice = np.stack(np.meshgrid(*levels), -1).reshape(27, 27, 3)
        probe = Image.fromarray(lattice).convert(mode)
        came = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
        if np.abs(came - np.asarray(probe.convert("RGB"))).max() > 2:  # the profile is not sRGB
            return ImageCms.applyTransform(image.convert(mode), transform) or image
    except Exception as error:  # a damaged profile must not make a valid image unreadable
        print(f"omfa_torch: colour profile ignored ({format_error(error)})", file=sys.stderr)
    return image.convert("RGB")


def format_error(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def require_style(pose: str | Path, model: Path) -> None:
    """Raise an InputError if pose_maps.json beside a pose map says another style than the model's.

    `model` is the exported folder; what is wrong with it is left to its reader.
    """
    note = Path(pose).parent / "pose_maps.json"
    try:
        wanted = json.loads((model / "omfa.json").read_text()).get("pose_style", "normals")
        found = json.loads(note.read_text())["style"] if note.is_file() else wanted
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if not note.is_file():
            return
        raise InputError(f"--pose: {note} beside the pose map says no style") from None
    if found != wanted:
        raise InputError(
            f"--pose: the model was trained on pose maps of style {wanted!r}, and {pose} is"
            f" {found!r} ({note.name} beside it)"
        )


def draw_person(
    model: Path, task: str, photo: str, has_face: bool
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return {"face": image} and the pose map of a photo, found by omfa_jax where it is installed.

    Without it there are none, and a line says so. `has_face`: the face is given and not looked for.
    """
    try:
        from omfa_jax.core.errors import OmfaError
        from omfa_jax.model_loading import read_settings
        from omfa_jax.sampling.serving_inputs import draw_photo_person
    except ImportError:
        lacks = "the pose of --person" if has_face else "face and pose of --person"
        print(
            f"{lacks} cannot be found without omfa_jax: install it, or give"
            f" {'' if has_face else '--face and '}--pose; the model chooses the pose"
        )
        return {}, None
    try:
        face, pose = draw_photo_person(read_settings(model), task, photo, has_face=has_face)
    except OmfaError as error:
        raise InputError(str(error)) from None
    if pose is None:
        print("no pose in --person: the model chooses one; give --pose")
    return {} if face is None else {"face": face}, pose


def letterbox(image: np.ndarray, height_px: int, width_px: int, fill: int) -> np.ndarray:
    """Return the image, scaled without distortion and centred in a frame filled with `fill`."""
    top, left, height, width = place(_get_size(image), height_px, width_px)
    frame = np.full((height_px, width_px, 3), fill, np.uint8)
    frame[top : top + height, left : left + width] = resize(image, height, width)
    return frame


def place(size_px: tuple[int, int], height_px: int, width_px: int) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a letter-boxed image of `size_px` (height, width)."""
    scale = min(height_px / size_px[0], width_px / size_px[1])
    height = min(height_px, max(1, round(size_px[0] * scale)))
    width = min(width_px, max(1, round(size_px[1] * scale)))
    return (height_px - height) // 2, (width_px - width) // 2, height, width


def resize(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Return the image at another size."""
    if image.shape[:2] == (height_px, width_px):
        return image
    size = (width_px, height_px)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _get_size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _have_one_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    (height, width), (other_height, other_width) = sorted((first, second))
    off = abs(height * other_width / width - other_height)
    return off <= max(1.0, other_width / width) + 0.002 * other_height


def _find_box(pose: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom) of what differs from a pose map's edges."""
    edge = np.concatenate([pose[0], pose[:, 0], pose[:, -1]]).astype(np.int16)
    y, x = np.nonzero((np.abs(pose - np.median(edge, axis=0)) > MAP_CONTRAST).any(axis=-1))
    return (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else None


def _place_span(low: float, high: float, wanted: float, limit: int) -> tuple[int, int]:
    span = min(wanted, limit)
    start = min(max((low + high - span) / 2, 0.0), limit - span)
    return math.floor(start), min(limit, math.ceil(start + span))


def _compute_scale(size_px: tuple[int, int], slot_px: tuple[int, int]) -> float:
    return min(slot_px[0] / size_px[0], slot_px[1] / size_px[1])


def _make_ramp(length: int, seam: int, first: bool, last: bool) -> np.ndarray:
    weights = np.ones(length, np.float32)
    rise = (np.arange(min(seam, length), dtype=np.float32) + 0.5) / seam
    if first:
        weights[: len(rise)] = rise
    if last:
        weights[length - len(rise) :] *= rise[::-1]
    return weights
