"""Reading images of any format as RGB, resizing, and writing PNG and JPEG files."""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import HEADER_BYTES, prepare_plugin
from omfa_jax.core.paths import to_path
from omfa_jax.core.retry import call_with_retries
from omfa_jax.core.srgb import convert_to_srgb, report_unused_colors

# zlib's ZLIB_RLE strategy
ZLIB_RLE = 3
JPEG_QUALITY = 95
MIN_SIDE_PX = 2
# bytes of pixels copied from Pillow's memory at once: few enough to stay in the cache
CHUNK_BYTES = 2**18
# Pillow's own warning limit: a small file can claim, and be unpacked to, any size
MAX_PIXELS = 89_478_485
TOO_LARGE_MESSAGE = "too large (more than 89 megapixels); scale it down"
EXIF_ORIENTATION = 0x0112
EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# orientations from here on swap width and height
FIRST_TRANSPOSED_ORIENTATION = 5

ImageSource = str | os.PathLike | bytes
Box = tuple[int, int, int, int]


def read_rgb(source: ImageSource, what: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Return the upright RGB image of a file (a path) or of encoded bytes.

    Colour profiles, grey, palette, CMYK and YCbCr images are converted to sRGB, transparency is
    composited over white, 16-bit samples are scaled to 8 bits and an EXIF rotation is applied.
    HEIC is read with the `heif` extra, AVIF where Pillow has it. OmfaError naming `what` if
    the source is missing, empty, truncated, less than 2 px on a side, or not an image.
    """
    return np.array(open_rgb(source, what))


def open_rgb(source: ImageSource, what: str = "image") -> Image.Image:
    """Return the image of `read_rgb` as a Pillow image; raises the same errors."""
    name = _format_name(source, what)
    data = source if isinstance(source, bytes) else read_image_file(source, what)
    image = _decode(data, name)
    report_unused_colors(image, name, data)
    image = _apply_orientation(image, get_exif_orientation(image))
    try:
        image = convert_to_srgb(image, name)
    except Exception as error:  # modes that Pillow reads and cannot convert
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OmfaError(f"{name}: cannot be converted to RGB from {image.mode}: {reason}") from None
    if min(image.size) < MIN_SIDE_PX:
        size = f"{image.width}x{image.height} px"
        raise OmfaError(f"{name}: too small ({size}); give a larger image")
    return image


def read_labels(source: ImageSource, what: str = "label map") -> UInt8[np.ndarray, "h w"]:
    """Return the raw samples of a one-channel image: palette indices or grey levels.

    Raises OmfaError as `read_rgb` does, and for an image with several channels.
    """
    image = open_image(source, what)
    if image.mode not in ("P", "L", "1"):
        found = f"found mode {image.mode}"
        raise OmfaError(
            f"{_format_name(source, what)}: expected one 8-bit channel of label ids, {found}"
        )
    return np.array(image, dtype=np.uint8)


def open_image(source: ImageSource, what: str = "image") -> Image.Image:
    """Return the decoded Pillow image without rotation or conversion; OmfaError if that fails."""
    name = _format_name(source, what)
    return _decode(source if isinstance(source, bytes) else read_image_file(source, what), name)


def read_image_file(source: str | os.PathLike, what: str = "image") -> bytes:
    """Return the bytes of a file; OmfaError naming `what` if there is none."""
    name, path = _format_name(source, what), to_path(source)
    # in object storage each look is a request: the read itself says that nothing is there
    if isinstance(path, Path) and not path.is_file():
        came = "a folder" if path.is_dir() else "nothing"
        raise OmfaError(f"{name}: expected an image file, found {came}")
    try:
        return call_with_retries(name, path.read_bytes)
    except FileNotFoundError:
        raise OmfaError(f"{name}: expected an image file, found nothing") from None
    except OSError as error:
        raise OmfaError(f"{name}: cannot be read: {error.strerror or error}") from None


def _decode(source: bytes, name: str) -> Image.Image:
    if not source:
        raise OmfaError(f"{name}: the file is empty (0 bytes)")
    kind = prepare_plugin(source[:HEADER_BYTES], name)
    try:
        image = Image.open(io.BytesIO(source))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise OmfaError(f"{name}: {TOO_LARGE_MESSAGE}") from None
    except Image.UnidentifiedImageError:
        raise OmfaError(f"{name}: {_format_unread(kind)}") from None
    except Exception as error:  # Pillow's decoders raise any exception type for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OmfaError(f"{name}: damaged image: {reason}") from None
    return image


def read_upright_size(path: str | os.PathLike, what: str = "image") -> tuple[int, int]:
    """Return (width, height) in pixels of a file after EXIF rotation, without decoding it.

    Raises OmfaError naming `what` if the file is missing, too large or not an image.
    """
    name, kind = _format_name(path, what), ""
    try:
        with to_path(path).open("rb") as file:
            kind = prepare_plugin(file.read(HEADER_BYTES), name)
            file.seek(0)
            with Image.open(file) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                is_transposed = get_exif_orientation(image) >= FIRST_TRANSPOSED_ORIENTATION
    except OmfaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise OmfaError(f"{name}: {TOO_LARGE_MESSAGE}") from None
    except Exception as error:  # Pillow raises any exception type for damaged files
        reason = isinstance(error, OSError) and error.strerror
        raise OmfaError(f"{name}: {reason or _format_unread(kind)}") from None
    return (height, width) if is_transposed else (width, height)


def get_exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8; 1 (upright) if it is missing or invalid."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block must not make a valid image unreadable
        return 1
    return value if value in EXIF_TRANSPOSES else 1


def compute_letterbox_box(source_px: tuple[int, int], height_px: int, width_px: int) -> Box:
    """Return (top, left, height, width) of an image letterboxed into `height_px` x `width_px`."""
    source_height, source_width = source_px
    scale = min(height_px / source_height, width_px / source_width)
    height = min(height_px, max(1, round(source_height * scale)))
    width = min(width_px, max(1, round(source_width * scale)))
    return (height_px - height) // 2, (width_px - width) // 2, height, width


def resize(
    image: UInt8[np.ndarray, "h w 3"], height_px: int, width_px: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the image at another size (Lanczos, antialiased when it shrinks)."""
    if image.shape[:2] == (height_px, width_px):
        return image
    size = (width_px, height_px)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def letterbox(
    image: UInt8[np.ndarray, "h w 3"], height_px: int, width_px: int, fill: int = 255
) -> UInt8[np.ndarray, "height_px width_px 3"]:
    """Return the image scaled with its aspect ratio kept and centred on a `fill` background."""
    if image.shape[:2] == (height_px, width_px):
        return image
    return np.array(letterbox_image(Image.fromarray(image), height_px, width_px, fill))


def letterbox_image(image: Image.Image, height_px: int, width_px: int, fill: int) -> Image.Image:
    """Return `letterbox` of a Pillow image; the image itself if it already has the size."""
    top, left, height, width = compute_letterbox_box(
        (image.height, image.width), height_px, width_px
    )
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if (height, width) == (height_px, width_px):
        return image
    frame = Image.new("RGB", (width_px, height_px), (fill, fill, fill))
    frame.paste(image, (left, top))
    return frame


def copy_pixels(image: Image.Image, place: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write the pixels of an RGB image into contiguous memory of its size.

    np.asarray would join them from chunks first, which makes two more copies of the image.
    """
    if image.mode != "RGB" or place.shape != (image.height, image.width, 3):
        raise ValueError(f"{image.mode} image {image.size} does not fit {place.shape}")
    target, start, ended = place.reshape(-1).data, 0, 0
    encoder = Image._getencoder("RGB", "raw", "RGB")
    try:
        encoder.setimage(image.im, (0, 0, *image.size))
        while not ended:
            _, ended, piece = encoder.encode(max(CHUNK_BYTES, 4 * image.width))
            target[start : start + len(piece)] = piece
            start += len(piece)
    finally:
        encoder.cleanup()


def unletterbox(
    image: UInt8[np.ndarray, "h w 3"], height_px: int, width_px: int
) -> UInt8[np.ndarray, "height_px width_px 3"]:
    """Return a letterboxed image without its margins, at its original size."""
    top, left, height, width = compute_letterbox_box((height_px, width_px), *image.shape[:2])
    return resize(image[top : top + height, left : left + width], height_px, width_px)


def to_signed(image: UInt8[np.ndarray, "*b h w c"]) -> Float32[np.ndarray, "*b h w c"]:
    """Return 8-bit samples as float32 in [-1, 1], the range of the networks."""
    return image.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def from_signed(image: Float[np.ndarray, "*b h w c"]) -> UInt8[np.ndarray, "*b h w c"]:
    """Return samples in [-1, 1] as uint8, rounded; values outside are clipped."""
    return np.clip(np.round((image + 1) * 127.5), 0, 255).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """Return a uint8 image, grey (h w) or RGB (h w 3), as PNG bytes."""
    # zlib's run-length strategy takes half the time of the default for the same size
    return _encode(image, "PNG", compress_level=1, compress_type=ZLIB_RLE)


def encode_jpeg(image: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Return a uint8 image, grey (h w) or RGB (h w 3), as JPEG bytes.

    Chroma is not subsampled, because subsampling blurs thin coloured seams.
    """
    return _encode(image, "JPEG", quality=quality, subsampling=0)


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a uint8 image, grey (h w) or RGB (h w 3), as PNG or JPEG by the suffix.

    The write is atomic. OmfaError for another suffix, dtype or shape.
    """
    encoders = {".png": encode_png, ".jpg": encode_jpeg, ".jpeg": encode_jpeg}
    suffix = to_path(path).suffix.lower()
    if suffix not in encoders:
        raise OmfaError(f"{path}: expected a name ending in .png, .jpg or .jpeg, got {suffix!r}")
    encoded = encoders[suffix](image)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)


def _encode(image: np.ndarray, kind: str, **options: int) -> bytes:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        came = f"{image.dtype} {image.shape}"
        raise OmfaError(f"an image to write must be uint8 (h, w) or (h, w, 3), got {came}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def _format_name(source: ImageSource, what: str) -> str:
    return what if isinstance(source, bytes) else f"{what} {os.fspath(source)}"


def _format_unread(kind: str) -> str:
    return (
        f"a damaged {kind} image"
        if kind
        else "not an image in a format that Pillow reads, or damaged"
    )


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    return (
        image.transpose(EXIF_TRANSPOSES[orientation]) if orientation in EXIF_TRANSPOSES else image
    )
