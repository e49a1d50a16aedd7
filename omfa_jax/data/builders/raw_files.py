"""Read the files of a raw data set: images as bytes, label maps, lists of pairs."""

import difflib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.name_lists import ListLine, read_name_list
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath, RemotePath
from omfa_jax.core.srgb import is_converted
from omfa_jax.core.value_rules import MAX_COUNT, format_value
from omfa_jax.data.builders.label_sets import Category, LabelSet

log = logging.getLogger(__name__)

# relative; rounding the sides of a scaled-down map to whole pixels changes the ratio by less
MAX_ASPECT_ERROR = 0.02
# malformed lines of a list that are reported one by one
MAX_FAULTS = 10
# words of DressCode's lists and folders, of CatVTON, OOTDiffusion and FASHN -> category
CATEGORY_WORDS: dict[str, Category] = {
    **dict.fromkeys(("upper", "upper_body", "upperbody", "top", "tops", "0"), "upper"),
    **dict.fromkeys(("lower", "lower_body", "lowerbody", "bottom", "bottoms", "1"), "lower"),
    **dict.fromkeys(("dress", "dresses", "overall", "one_piece", "one_pieces", "2"), "dress"),
}
CATEGORY_TEXT = "upper, lower or dress; upper_body, lower_body or dresses; 0, 1 or 2"
# column of a pairs list -> words for it in headers
HEADERS = {
    "person": ("person", "persons", "people", "image", "img", "model", "human", "im", "im_name")
    + ("person_name", "person_image", "model_image", "model_name", "image_name"),
    "garment": ("garment", "garments", "cloth", "clothes", "clothing", "product", "c", "c_name")
    + ("garment_name", "garment_image", "cloth_name", "cloth_image", "clothes_name"),
    "category": ("category", "categories", "cat", "class", "type", "cloth_type", "garment_type"),
}

T = TypeVar("T")
Folder = TypeVar("Folder", Path, RemotePath, AnyPath)


def read_image_and_bytes(path: AnyPath, what: str) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
    """Return the bytes to store for an image, and its pixels.

    An upright sRGB JPEG or PNG is stored unchanged; anything else is re-encoded as JPEG.
    """
    # read once: in object storage each read is a request
    name = f"{what} {path}"
    encoded = images.read_image_file(path, what)
    rgb = images.read_rgb(encoded, name)
    image = images.open_image(encoded, name)
    # encoding again costs quality, so it is left to files that decoders show differently
    plain = image.format in ("JPEG", "PNG") and image.mode == "RGB"
    plain = plain and not image.has_transparency_data and not is_converted(image, name)
    if plain and images.get_exif_orientation(image) == 1:
        return encoded, rgb
    return images.encode_jpeg(rgb), rgb


def read_image_bytes(path: AnyPath) -> bytes:
    """Return the bytes to store for an image."""
    return read_image_and_bytes(path, "image")[0]


def read_optional(
    read: Callable[[AnyPath], T], path: AnyPath | None, what: str, flaws: list[str]
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
    path: AnyPath | None,
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


def find_category_word(word: str) -> Category | None:
    """Return the category that a word names in the lists and folders of public data sets."""
    if word in CATEGORY_WORDS:
        return CATEGORY_WORDS[word]
    return CATEGORY_WORDS.get(re.sub(r"[\W_]+", "_", word.strip().lower()))


def read_pairs(
    path: AnyPath,
    warnings: list[str],
    *,
    notes: list[str] | None = None,
    max_faults: int = MAX_FAULTS,
) -> Iterator[Pair]:
    """Yield the pairs of a list with lines "person garment" or "person garment category".

    The forms of a line are those of `name_lists`; a header may name the columns, in any order.
    Categories are words of CATEGORY_WORDS. Malformed lines go to `warnings`, as do names with a
    path, which could lead out of the data set: `max_faults` of them, and how many more there are.
    What was taken for a header goes to `notes`, by default to `warnings` too.
    """
    lines = read_name_list(path)
    columns: tuple[int | None, ...] = (0, 1, 2)
    if lines and (header := _read_header(lines)):
        columns, skipped = header
        told = warnings if notes is None else notes
        told.append(f"{path.name} line {lines[0].number}: {skipped}")
        lines = lines[1:]
    faults = 0
    for line in lines:
        fields = _order_fields(line.fields, columns)
        fault = line.fault or _find_fault(fields)
        if not fault:
            category = find_category_word(fields[2]) if len(fields) == 3 else None
            yield Pair(fields[0], fields[1], category or "")
            continue
        faults += 1
        if faults <= max_faults:
            found = format_value(" ".join(line.text.split())[:80])
            warnings.append(f"{path.name} line {line.number}: {fault}, found {found}")
    if faults > max_faults:
        warnings.append(f"{path.name}: {faults - max_faults} more lines of such kinds")


def list_pairs(path: AnyPath, warnings: list[str]) -> list[Pair]:
    """Return the pairs of a list as `read_pairs` does; OmfaError if none of its lines is a pair."""
    found: list[str] = []
    pairs = list(read_pairs(path, found))
    if found and not pairs:
        raise OmfaError(f"{path}: none of its lines is a pair of names: {found[-1]}")
    if not pairs:
        found.append(f"{path.name}: the list is empty")
    warnings += found
    return pairs


def read_pair_list(path: AnyPath, flag: str) -> list[Pair]:
    """Return the pairs of the list of `omfa sample` and `omfa eval`, each once.

    A line that occurs twice is used once, with a warning. Raises an OmfaError that names the first
    line that is no pair, and a pair with two categories; `flag` is where the list was given.
    """
    faults: list[str] = []
    notes: list[str] = []
    try:
        file = require_any_file(path, "pairs file", flag)
        found = list(read_pairs(file, faults, notes=notes, max_faults=MAX_COUNT))
    except OSError as error:
        raise OmfaError(f"{path}: cannot be read: {error}; change {flag}") from None
    for note in notes:
        log.info("%s", note)
    if faults:
        more = f" (and {len(faults) - 1} more such lines)" if len(faults) > 1 else ""
        raise OmfaError(f"{faults[0]}{more}; mend the list, or change {flag}")
    if not found:
        raise OmfaError(f"{path}: the file has no pairs; change {flag}")
    pairs = list(dict.fromkeys(found))
    categories: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        other = categories.setdefault((pair.person, pair.garment), pair)
        if other is not pair:
            words = " and ".join(one.category or "none" for one in (other, pair))
            raise OmfaError(
                f"{path}: the pair {pair.person} {pair.garment} occurs twice, with two categories:"
                f" {words}; mend the list, or change {flag}"
            )
    if len(pairs) < len(found):
        twice = next(pair for pair, times in Counter(found).items() if times > 1)
        more = len(found) - len(pairs)
        log.warning(
            "%s: %d %s of pairs that occur more than once (such as %s %s); each is used once",
            *(path, more, "lines" if more > 1 else "line", twice.person, twice.garment),
        )
    return pairs


def _find_fault(fields: Sequence[str]) -> str:
    if any(Path(name).name != name or "\\" in name for name in fields[:2] if name):
        return "expected names without a path"
    if len(fields) not in (2, 3) or not all(fields[:2]):
        return (
            "expected two names (and upper, lower or dress), separated by spaces, tabs or commas;"
            " names with spaces in quotes"
        )
    if len(fields) == 3 and fields[2] and not find_category_word(fields[2]):
        near = difflib.get_close_matches(fields[2].lower(), CATEGORY_WORDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"expected a category ({CATEGORY_TEXT}) as the third word{hint}"
    return ""


def _read_header(lines: Sequence[ListLine]) -> tuple[tuple[int | None, ...], str] | None:
    """Return the columns of person, garment and category and what to say; None without a header."""
    first = lines[0]
    words = [re.sub(r"[\W_]+", "_", field.lower()).strip("_") for field in first.fields]
    roles = [next((r for r, names in HEADERS.items() if word in names), None) for word in words]
    named = "person" in roles and "garment" in roles
    # other words, over lines that name images; "00006_00 00891_00" are names without suffix
    plain = not first.names_image and len(lines) > 1 and lines[1].names_image
    plain = plain and not re.search(r"\d\d", first.text)
    if first.fault or not (named or plain):
        return None
    if not named:
        return (0, 1, 2), f"skipped as a header, found {format_value(first.text[:80])}"
    columns = tuple(roles.index(role) if role in roles else None for role in HEADERS)
    order = ", ".join(words[place] for place in columns if place is not None)
    return columns, f"read as a header; person, garment and category are {order}"


def _order_fields(fields: Sequence[str], columns: tuple[int | None, ...]) -> Sequence[str]:
    if columns == (0, 1, 2):
        return fields
    ordered = [
        fields[place] if place is not None and place < len(fields) else "" for place in columns
    ]
    return ordered if ordered[2] else ordered[:2]


def list_files_by_stem(folder: Folder) -> dict[str, Folder]:
    """Return {name without suffix: path} of a folder's files; empty if there is no folder."""
    if not folder.is_dir():
        return {}
    # archives made on macOS contain "._name" files that are no images
    names = (entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    # sorted: of two files with the same stem every machine takes the last one
    return {Path(name).stem: folder / name for name in sorted(names)}


def list_first_nonempty_folder(folder: Folder, names: tuple[str, ...]) -> dict[str, Folder]:
    """Return `list_files_by_stem` of the first non-empty sub-folder."""
    return next((found for name in names if (found := list_files_by_stem(folder / name))), {})
