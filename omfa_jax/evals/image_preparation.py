"""Image preparation for the metrics, and a quick check of every file before scoring starts."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from tqdm import tqdm

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import MAX_PIXELS, MIN_SIDE_PX, get_exif_orientation, open_image
from omfa_jax.core.srgb import is_converted
from omfa_jax.evals.protocol_spec import Filter, ImagePreparation

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
JPEG_END, PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class FileFacts:
    """What the quick check found: SHA-256 of the bytes, upright (height, width), file format.

    `converted` names what is converted to upright 8-bit RGB ("CMYK", "EXIF rotation", ...), or is
    "".
    """

    sha256: str
    size_px: tuple[int, int]
    format: str
    converted: str


def inspect_file(path: Path) -> FileFacts:
    """Return an image file's facts; OmfaError if it is damaged, truncated or not an image.

    PNGs are verified by their checksums and JPEGs by their end marker. Pixels are decoded only if
    that check fails, or for other formats.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OmfaError(f"image {path}: cannot be read: {error.strerror or error}") from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, mode, size = image.format or "", image.mode, image.size
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            see_through = image.has_transparency_data
            recolored = is_converted(image, f"image {path}")
            # Pillow decodes a PNG to its end to look for EXIF, so look only if there may be some
            turned = kind != "PNG" or b"eXIf" in content or b"Raw profile type" in content
            orientation = get_exif_orientation(image) if turned else 1
        # some cameras and tools pad files with zeros
        ending = content.rstrip(b"\0")
        intact = kind == "JPEG" and ending.endswith(JPEG_END)
        if kind == "PNG":
            with Image.open(io.BytesIO(content)) as image:
                # on a fresh object: verify refuses one that the search for EXIF has decoded
                image.verify()
            intact = ending.endswith(PNG_END)
    except Exception:  # damaged files raise almost anything; decoding below gives a clear message
        intact = False
    if not intact:
        image = open_image(path, "image")
        if image.format == "PNG":  # Pillow decodes a truncated PNG without an error
            raise OmfaError(f"image {path}: damaged or truncated (a PNG without its end)")
        kind, mode, size = image.format or kind, image.mode, image.size
        see_through, orientation = image.has_transparency_data, get_exif_orientation(image)
        recolored = is_converted(image, f"image {path}")
    if min(size) < MIN_SIDE_PX:
        raise OmfaError(f"image {path}: too small ({size[0]}x{size[1]} px)")
    width, height = size if orientation not in TRANSPOSED else size[::-1]
    odd = [
        # RGBA is counted as transparency
        *([mode] if mode not in ("RGB", "RGBA") else []),
        *(["transparency"] if see_through else []),
        *(["colour profile"] if recolored else []),
        *(["EXIF rotation"] if orientation != 1 else []),
    ]
    return FileFacts(hashlib.sha256(content).hexdigest(), (height, width), kind, ", ".join(odd))


def inspect_files(paths: Sequence[Path], workers: int) -> dict[Path, FileFacts]:
    """Check every file; the OmfaError names the first damaged one and how many there are."""
    facts: dict[Path, FileFacts] = {}
    errors: list[OmfaError] = []
    with ThreadPoolExecutor(workers) as pool:
        # all results are awaited, so that the error counts every damaged file
        waiting = [(path, pool.submit(inspect_file, path)) for path in paths]
        for path, future in tqdm(waiting, desc="checking files", unit="file", leave=False):
            try:
                facts[path] = future.result()
            except OmfaError as error:
                errors.append(error)
    if errors:
        more = f" (and {len(errors) - 1} more damaged files)" if len(errors) > 1 else ""
        raise OmfaError(f"{errors[0]}{more}; nothing was scored: replace or remove it")
    return facts


def resize_with_filter(
    image: UInt8[np.ndarray, "h w 3"], size_px: tuple[int, int], filter: Filter
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the image resized to (height, width) with Pillow's 8-bit filter."""
    height, width = size_px
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), FILTERS[filter]))


def prepare_image(
    image: UInt8[np.ndarray, "h w 3"],
    prepare: ImagePreparation,
    other_px: tuple[int, int] | None = None,
    *,
    is_prediction: bool = False,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the image as the metric sees it.

    `other_px`, the size of the image that it is compared with, applies where the protocol names no
    size.
    """
    size = prepare.size_px or other_px or image.shape[:2]
    height, width = size
    # some methods generate squares: the protocol says which part of them is the portrait
    square = is_prediction and image.shape[0] == image.shape[1] and height > width
    if square and prepare.pred_fit == "resize_then_crop":
        left = round((height - width) / 2)
        return resize_with_filter(image, (height, height), prepare.filter)[:, left : left + width]
    if square and prepare.pred_fit == "crop_then_resize":
        columns = round(image.shape[0] * width / height)
        left = round((image.shape[1] - columns) / 2)
        image = image[:, left : left + columns]
    return resize_with_filter(image, size, prepare.filter)


def resize_and_center_crop(
    image: UInt8[np.ndarray, "h w 3"], side_px: int
) -> UInt8[np.ndarray, "side_px side_px 3"]:
    """Return the centre square after resizing the short side to `side_px` (bicubic), as CLIP."""
    height, width = image.shape[:2]
    short = min(height, width)
    # truncated, as torchvision's Resize does
    size = (int(side_px * height / short), int(side_px * width / short))
    image = resize_with_filter(image, size, "bicubic")
    top, left = (round((side - side_px) / 2) for side in size)
    return image[top : top + side_px, left : left + side_px]


def resize_bicubic_float(
    image: UInt8[np.ndarray, "h w 3"], side_px: int
) -> Float32[np.ndarray, "side_px side_px 3"]:
    """Return the image resized to a square without rounding to 8 bits, as clean-fid does.

    Each channel is resized by Pillow's bicubic filter on floats and clipped to 0..255.
    """
    channels = [
        Image.fromarray(image[..., index].astype(np.float32)).resize(
            (side_px, side_px), Image.Resampling.BICUBIC
        )
        for index in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1).clip(0, 255)
