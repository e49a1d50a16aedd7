"""Conversion of images of any mode and colour profile to 8-bit sRGB."""

import functools
import io
import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms

log = logging.getLogger(__name__)

# a profile that moves no colour by more levels than this is sRGB: its pixels stay as they are
SRGB_TOLERANCE_LEVELS = 2
MAX_REPORTED = 20
# ICC colour space -> mode of the pixels that the profile describes
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GREY_MODES = ("1", "L", "LA", "La")
# colour primaries and transfer functions by number (ITU-T H.273); those of sRGB, and unknown ones
_PRIMARIES = {4: "NTSC", 5: "PAL", 6: "NTSC", 7: "NTSC", 9: "BT.2020", 11: "DCI P3"}
_PRIMARIES |= {12: "Display P3"}
_TRANSFERS = {4: "gamma 2.2", 5: "gamma 2.8", 8: "linear light", 16: "HDR (PQ)", 18: "HDR (HLG)"}
# of a PNG's gAMA, which is 1 / 2.2 for sRGB
_SRGB_GAMMA, _GAMMA_TOLERANCE = 1 / 2.2, 0.03
_SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_CHROMATICITY_TOLERANCE = 0.015
_PNG_START = b"\x89PNG\r\n\x1a\n"
# cameras that take Adobe RGB write this interoperability index, often without a profile
_ADOBE_RGB_INDEX = "R03"
_reported: set[str] = set()


@dataclass(frozen=True, eq=False)
class ColorTransform:
    """A conversion to sRGB of pixels of `mode`; `transform` is None for a profile that is sRGB."""

    mode: str
    transform: ImageCms.ImageCmsTransform | None


def convert_to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Return an image of any mode as 8-bit RGB in sRGB.

    An embedded colour profile is applied; without one the image is taken to be sRGB. Transparency
    is composited over white, and samples of more than 8 bits are scaled to 8. A profile that is
    damaged or belongs to another kind of image is ignored, which is logged once per `name`.
    """
    found = find_transform(image, name)
    image = _reduce_to_8_bits(image)
    layer = image.convert("RGBA") if image.has_transparency_data else None
    if found is not None and found.transform is not None:
        colors = image if image.mode == found.mode else image.convert(found.mode)
        converted = ImageCms.applyTransform(colors, found.transform)
        assert converted is not None  # only None if it is done in place
        if layer is None:
            return converted
        converted.putalpha(layer.getchannel("A"))
        layer = converted
    if layer is None:
        return image if image.mode == "RGB" else _to_rgb(image)
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def find_transform(image: Image.Image, name: str) -> ColorTransform | None:
    """Return the conversion to sRGB that the image's profile asks for.

    None if there is no profile or it cannot be used, which is logged once per `name`.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        if not isinstance(profile, bytes):
            raise TypeError("it is not of bytes")
        found = _load_transform(profile)
        # grey images with an RGB profile are common, and clear: red, green and blue are equal
        fits = {
            "RGB": image.mode not in ("CMYK", "LAB"),
            "L": image.mode in _GREY_MODES or image.mode[0] in "IF",
            "CMYK": image.mode == "CMYK",
        }
        if not fits[found.mode]:
            raise ValueError(f"it is for {found.mode} and the image is {image.mode}")
    except Exception as error:  # a damaged profile must not make a valid image unreadable
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        _report(name, f"colour profile ignored ({reason}), read as sRGB")
        return None
    return found


def report_unused_colors(image: Image.Image, name: str, data: bytes = b"") -> None:
    """Log, once per `name`, colours that a file states without a profile: they are not converted.

    These are a HEIC's or PNG's numbers of H.273, a PNG's gamma and primaries, and a camera's
    Adobe RGB. `data` is the encoded file, whose PNG chunks Pillow does not keep.
    """
    if image.info.get("icc_profile") or name in _reported:
        return
    try:
        stated = _describe_colors(image, data)
    except Exception:  # damaged metadata must not make a valid image unreadable
        return
    if stated:
        _report(name, f"{stated} without a colour profile are not converted, read as sRGB")


def _describe_colors(image: Image.Image, data: bytes) -> str:
    """Return what the file states of its colours if it is not sRGB, else ""."""
    numbers = image.info.get("nclx_profile") or {}
    codes = (numbers.get("color_primaries"), numbers.get("transfer_characteristics"))
    if data.startswith(_PNG_START):
        if found := _find_png_chunk(data, b"cICP"):
            codes = found[0], found[1]
        elif "srgb" not in image.info:
            return _describe_png_gamma(image)
    stated = [_PRIMARIES.get(codes[0] or 0), _TRANSFERS.get(codes[1] or 0)]
    if any(stated):
        return f"colours in {' and '.join(filter(None, stated))}"
    # only where there is EXIF: reading it opens the file's metadata
    if "exif" not in image.info:
        return ""
    index = image.getexif().get_ifd(ExifTags.IFD.Interop).get(1)
    return "colours in Adobe RGB (by EXIF)" if index == _ADOBE_RGB_INDEX else ""


def _describe_png_gamma(image: Image.Image) -> str:
    gamma = image.info.get("gamma", _SRGB_GAMMA)
    if gamma > 0 and abs(gamma - _SRGB_GAMMA) > _GAMMA_TOLERANCE:
        return f"colours with gamma {1 / gamma:.2g}"
    primaries = image.info.get("chromaticity", _SRGB_CHROMATICITY)
    moved = np.abs(np.subtract(primaries, _SRGB_CHROMATICITY)).max()
    return "colours with other primaries than sRGB's" if moved > _CHROMATICITY_TOLERANCE else ""


def _find_png_chunk(data: bytes, kind: bytes) -> bytes:
    """Return the contents of a chunk before the pixels, b"" if there is none."""
    at = len(_PNG_START)
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name in (kind, b"IDAT"):
            return data[at + 8 : at + 8 + size] if name == kind else b""
        at += size + 12
    return b""


def is_converted(image: Image.Image, name: str) -> bool:
    """Whether the image has a usable profile other than sRGB."""
    found = find_transform(image, name)
    return found is not None and found.transform is not None


@functools.lru_cache(maxsize=16)
def _load_transform(profile: bytes) -> ColorTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
    if space not in _PROFILE_MODES:
        raise ValueError(f"its colour space is {space}")
    mode = _PROFILE_MODES[space]
    intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
    target = ImageCms.createProfile("sRGB")
    # a table of 33 greys, which lcms makes to be fast, is off by many levels in the shadows
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(source, target, mode, "RGB", intent, flags)
    probe = _make_probe().convert(mode)
    moved = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    moved = np.abs(moved - np.asarray(probe.convert("RGB"), np.int16)).max()
    return ColorTransform(mode, transform if moved > SRGB_TOLERANCE_LEVELS else None)


def _make_probe() -> Image.Image:
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))


def _report(name: str, what: str) -> None:
    # a set that is full has reported that there are more
    if name in _reported or len(_reported) > MAX_REPORTED:
        return
    _reported.add(name)
    if len(_reported) > MAX_REPORTED:
        log.warning("more colour profiles are ignored; they are not listed")
        return
    log.warning("%s: %s", name, what)


def _reduce_to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return Image.fromarray(_scale_to_uint8(np.array(image)))
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode != "LAB":
        return image.convert("RGB")
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only None if it is done in place
    return converted


def _scale_to_uint8(samples: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Return grey samples wider than 8 bits scaled to 0..255, by the range of their format."""
    # Pillow's own conversion to "RGB" clips such samples at 255 instead of scaling them
    peak = np.nanmax(samples)
    if samples.dtype.kind == "f":
        full = next((limit for limit in (1.0, 255.0) if peak <= limit), 65535.0)
    else:
        full = 65535.0 if peak <= 65535 else 2147483647.0
    scaled = np.nan_to_num(samples.astype(np.float64)) * (255 / full)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)
