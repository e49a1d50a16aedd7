"""Formats of image files: suffixes, and those that need a plugin of Pillow's."""

import functools

from PIL import features

from omfa_jax.core.errors import OmfaError, require_modules

# what folders of images may contain; single files are recognised by their content
READ_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)
# of the formats in which encoded images are stored and written as they are
FORMAT_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
# bytes of a file that `prepare_plugin` needs
HEADER_BYTES = 64
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_SHARED_BRANDS = {b"mif1", b"msf1", b"mif2"}


def find_heif_kind(header: bytes) -> str:
    """Return "HEIC" or "AVIF" for the first bytes of such a file, "" for any other."""
    if header[4:8] != b"ftyp":
        return ""
    # major brand, version, compatible brands; the size of the box comes first
    size = min(int.from_bytes(header[:4], "big"), len(header))
    brands = {header[8:12], *(header[at : at + 4] for at in range(16, size, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & (_HEIC_BRANDS | _SHARED_BRANDS) else ""


def prepare_plugin(header: bytes, name: str) -> str:
    """Make Pillow able to open a file with these first bytes; return `find_heif_kind` of them.

    Raises OmfaError, naming the format and what to install, for HEIC without pillow-heif and for
    AVIF with a Pillow that does not have it. `name` is the image's, for the message.
    """
    kind = find_heif_kind(header)
    if kind == "HEIC":
        require_modules(f"{name}: a HEIC image", "heif", "pillow_heif")
        _register_heif()
    elif kind == "AVIF" and not features.check("avif"):
        raise OmfaError(
            f"{name}: an AVIF image needs a Pillow with AVIF (11.3 or newer): pip install -U pillow"
        )
    return kind


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
