"""Read the files of a raw data set: images as bytes, label maps, lists of pairs."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.srgb import is_converted
from omfa_jax.data.builders.label_sets import CATEGORIES, Category, LabelSet

# relative; rounding the sides of a scaled-down map to whole pixels changes the ratio by less
MAX_ASPECT_ERROR = 0.02

T = TypeVar("T")


def read_image_and_bytes(path: Path, what: str) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
    """Return the bytes to store for an image, and its pixels.

    An upright sRGB JPEG or PNG is stored unchanged; anything else is re-encoded as JPEG.
    """
    rgb = images.read_rgb(path, what)
    encoded = path.read_bytes()
    image = images.open_image(encoded, what)
    # encoding again costs quality, so it is left to files that decoders show differently
    plain = image.format in ("JPEG", "PNG") and image.mode == "RGB"
    plain = plain and not image.has_transparency_data and not is_converted(image, f"{what} {path}")
    if plain and images.get_exif_orientation(image) == 1:
        return encoded, rgb
    return images.encode_jpeg(rgb), rgb


def read_image_bytes(path: Path) -> bytes:
    """Return the bytes to store for an image."""
    return read_image_and_bytes(path, "image")[0]


def read_optional(
    read: Callable[[Path], T], path: Path | None, what: str, flaws: list[str]
) -> T | None:
    """Return `read(path)`; if the file is missing or damaged, add a flaw and return None.

    The flaw of a damaged file contains its path, so that the report lists each file. Flaws of
    missing files are identical, so that the report counts them.
    """
    if path is None:
        flaws.append(f"no {what}")
        return None
    try:
        return read(path)
    except OmfaError as error:
        flaws.append(f"damaged {what} ({error})")
        return None


def read_optional_labels(
    path: Path | None,
    label_set: LabelSet,
    size_px: tuple[int, int],
    flaws: list[str],
    what: str = "parse map",
) -> UInt8[np.ndarray, "h w"] | None:
    """Return the label map of a photo of `size_px` (height, width); None, and a flaw, if unusable.

    Unusable are maps with ids outside of the label set and maps of another aspect ratio. A map of
    another size and the same aspect ratio is returned with a flaw.
    """
    labels = read_optional(lambda path: images.read_labels(path, what), path, what, flaws)
    if labels is None:
        return None
    try:
        label_set.require_known_ids(labels, what)
    except OmfaError:
        flaws.append(f"{what} has ids that are not in {label_set.name}; not used ({path})")
        return None
    (height, width), (height_px, width_px) = labels.shape, size_px
    if abs(width / height * height_px / width_px - 1) > MAX_ASPECT_ERROR:
        flaws.append(f"{what} differs from the photo's aspect ratio; not used ({path})")
        return None
    if (height, width) != size_px:
        flaws.append(f"{what} differs from the photo's size; scaled")
    return labels


@dataclass(frozen=True)
class Pair:
    """One line of a pairs file: file names, and where the garment is worn ("" if not stated)."""

    person: str
    garment: str
    category: Category | Literal[""] = ""


def read_pairs(path: Path, warnings: list[str]) -> Iterator[Pair]:
    """Yield the pairs of a list with lines "person garment" or "person garment category".

    A category is a name or DressCode's 0 (upper), 1 (lower), 2 (dresses). Malformed lines go to
    `warnings`, as do names with a path, which could lead out of the data set.
    """
    known: dict[str, Category] = {name: name for name in CATEGORIES}
    known |= {str(number): name for number, name in enumerate(CATEGORIES)}
    # utf-8-sig: lists edited on Windows begin with a byte order mark
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), 1):
        words = line.split()
        if any(Path(word).name != word for word in words[:2]):
            warnings.append(
                f"{path.name} line {number}: expected names without a path, found {line[:80]!r}"
            )
        elif len(words) == 2:
            yield Pair(words[0], words[1])
        elif len(words) == 3 and words[2] in known:
            yield Pair(words[0], words[1], known[words[2]])
        elif words:
            warnings.append(
                f"{path.name} line {number}: expected two names (and upper, lower or dress),"
                f" found {' '.join(words)[:80]!r}"
            )


def list_files_by_stem(folder: Path) -> dict[str, Path]:
    """Return {name without suffix: path} of a folder's files; empty if there is no folder."""
    if not folder.is_dir():
        return {}
    # archives made on macOS contain "._name" files that are no images
    names = (entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    # sorted: of two files with the same stem every machine takes the last one
    return {Path(name).stem: folder / name for name in sorted(names)}


def list_first_nonempty_folder(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return `list_files_by_stem` of the first non-empty sub-folder."""
    return next((found for name in names if (found := list_files_by_stem(folder / name))), {})
