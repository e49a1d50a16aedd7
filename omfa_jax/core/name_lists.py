"""Read lists of names as people and programs write them: by spaces, tabs, commas, or quoted.

Each line is split on its own. Unquoted names with spaces are split after the suffix of an image;
the first line may be a header. UTF-8, and UTF-16 with its mark, with any line ends.
"""

import codecs
import csv
import re
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif"),
    *("heic", "heif", "avif", "jp2"),
)
_NAME = rf".+?\.(?:{'|'.join(IMAGE_SUFFIXES)})"
_BETWEEN = r"(?:\s*[,;|\t]\s*|\s+)"
_IMAGES = re.compile(rf"({_NAME}){_BETWEEN}({_NAME})(?:{_BETWEEN}(\S.*))?", re.IGNORECASE)
_SUFFIX = re.compile(rf"\.(?:{'|'.join(IMAGE_SUFFIXES)})$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# a quote counts at the start of a field only: "women's top.jpg" has none
_QUOTE = re.compile(r"(?:^|[\s,;|])([\"'])")
DELIMITERS = "\t,;|"


@dataclass(frozen=True)
class ListLine:
    """A line that is not empty: its number from 1, its text, and its fields.

    `fault`: why the line cannot be split, "" if it can.
    """

    number: int
    text: str
    fields: tuple[str, ...]
    fault: str = ""

    @property
    def names_image(self) -> bool:
        """Whether a field ends like the name of an image."""
        return any(_SUFFIX.search(field) for field in self.fields)


def read_name_list(path: AnyPath) -> list[ListLine]:
    """Return the lines of a list, without empty ones and comments ("# ...").

    Raises OmfaError for a file that is not text.
    """
    text = _decode(path.read_bytes(), path)
    lines = re.split(r"\r\n|\r|\n", text)
    found = []
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("# "):
            found.append(_split_line(number, stripped if "\t" not in line else line.strip(" ")))
    return found


def has_image_suffix(name: str) -> bool:
    """Return whether a name ends like that of an image."""
    return bool(_SUFFIX.search(name))


def format_list_line(*fields: str) -> str:
    """Return a line that `read_name_list` splits into these fields, without the empty ones."""
    given = tuple(field for field in fields if field)
    plain = " ".join(given)
    if _split_line(1, plain).fields == given:
        return plain
    return "\t".join('"' + field.replace('"', '""') + '"' for field in given)


def _decode(data: bytes, path: AnyPath) -> str:
    # what PowerShell's > and Notepad's "Unicode" write
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            return data.decode("utf-16", "replace").lstrip("\ufeff")
    if b"\0" in data:
        raise OmfaError(f"{path}: expected a text file with a pair of names a line, found binary")
    return data.decode("utf-8-sig", "replace")


def _split_line(number: int, text: str) -> ListLine:
    if "\ufffd" in text:
        return ListLine(number, text, (), "not UTF-8: save the list as UTF-8")
    if _CONTROL.search(text):
        return ListLine(number, text, (), "it has a control character")
    if quote := _QUOTE.search(text):
        try:
            return ListLine(number, text, _split_quoted(text, quote[1]))
        except csv.Error:
            return ListLine(number, text, (), "its quotes do not match")
    delimiter = next((mark for mark in DELIMITERS if mark in text), None)
    fields = _drop_empty_end(text.split(delimiter))
    if delimiter is None and len(fields) == 2:
        return ListLine(number, text, fields)
    images = sum(map(has_image_suffix, fields))
    # a name may have a comma or a space in it: then it ends with the suffix of an image
    found = _IMAGES.fullmatch(text.strip()) if delimiter is None or images < 2 else None
    if found and not has_image_suffix(found[3] or ""):
        fields = tuple(field.strip() for field in found.groups() if field)
    return ListLine(number, text, fields)


def _split_quoted(text: str, quote: str) -> tuple[str, ...]:
    outside = re.sub(rf"{quote}(?:[^{quote}]|{quote}{quote})*{quote}", "", text)
    delimiter = next((mark for mark in DELIMITERS if mark in outside), " ")
    # csv takes spaces before a quote only
    closed = re.sub(rf"{quote}\s+(?=[{DELIMITERS}])", quote, text)
    rows = csv.reader(
        [closed], delimiter=delimiter, quotechar=quote, skipinitialspace=True, strict=True
    )
    fields = next(rows)
    if delimiter == " ":
        fields = [field for field in fields if field]
    return _drop_empty_end(fields)


def _drop_empty_end(fields: list[str]) -> tuple[str, ...]:
    fields = [field.strip() for field in fields]
    while fields and not fields[-1]:
        fields.pop()
    return tuple(fields)
