"""Recognition of weight files by their first bytes, for errors that say what a file is."""

import re

from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath

# bytes read to recognise a file; a tar archive is marked at byte 257
START_BYTES = 1024
# an 8-byte length and the brace that opens the JSON header
SAFETENSORS_START = 9
MAX_HEADER_BYTES = 100_000_000

FETCH = "fetch or export it again"
UNPACK = "unpack it and give the .safetensors file inside"
SAFER = "pickled checkpoints can run code: convert it to safetensors first"
# (pattern at the start of the file, what the file is, what to do)
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"GGUF", "a GGUF file of quantised weights", "give the .safetensors file it was made from"),
    (
        rb"ggml|lmgg|fmgg|tjgg",
        "a GGML file of quantised weights",
        "give the .safetensors file it was made from",
    ),
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    (
        rb"\s*(?i:<!doctype|<html|<\?xml)",
        "a web page",
        "fetch it again; a model behind a licence must be fetched with a login",
    ),
    (rb"PK\x03\x04.{26}[^/]{0,200}/(data\.pkl|version|byteorder)", "a file of torch.save", SAFER),
    (rb"\x80[\x01-\x05].", "a pickled file", SAFER),
    (rb"PK\x03\x04", "a zip archive", UNPACK),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|.{257}ustar", "an archive", UNPACK),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF", "an image", "give the weights"),
    (rb"\x93NUMPY|\x89HDF", "an array file of another format", "convert it to safetensors first"),
    (rb"\s*[\[{]", "a JSON text", "give the weights"),
    (rb"[\t\n\r\x20-\x7e]+$", "a text", FETCH),
)


def recognise_file(path: AnyPath) -> tuple[str, str] | None:
    """Return (what a file is, what to do) if it is no complete safetensors file, else None.

    Only the file's start and size are read. None also for a file that cannot be read or recognised.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(START_BYTES)
            length = int.from_bytes(start[:8], "little")
            header = b""
            if has_safetensors_start(start, size):
                file.seek(8)
                header = file.read(length)
    except OSError:
        return None
    if size == 0:
        return "it is empty", FETCH
    if header:
        return _compare_size(header, 8 + length, size)
    # a header longer than the file: the start of a download that broke off
    if start[8:SAFETENSORS_START] == b"{" and size <= 8 + length <= MAX_HEADER_BYTES:
        return f"it has {size:,} bytes, its header alone {8 + length:,}", FETCH
    for pattern, what, advice in KINDS:
        if re.match(pattern, start, re.DOTALL):
            return f"it is {what}", advice
    return None


def is_safetensors(path: AnyPath) -> bool:
    """Return True if a file starts as a safetensors file does, whatever its name."""
    try:
        with path.open("rb") as file:
            return has_safetensors_start(file.read(SAFETENSORS_START), path.stat().st_size)
    except OSError:
        return False


def has_safetensors_start(start: bytes, size: int) -> bool:
    """Return True for the first bytes of a safetensors file of `size` bytes."""
    length = int.from_bytes(start[:8], "little")
    return start[8:SAFETENSORS_START] == b"{" and 8 + length <= min(size, MAX_HEADER_BYTES)


def _compare_size(header: bytes, body: int, size: int) -> tuple[str, str] | None:
    try:
        entries = parse_json(header)
        ends = [row["data_offsets"][1] for key, row in entries.items() if key != "__metadata__"]
        expected = body + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return None if expected == size else (f"it has {size:,} of {expected:,} bytes", FETCH)
