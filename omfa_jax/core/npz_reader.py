"""Reading .npy and .npz files from untrusted sources, with sizes checked before any allocation.

A few kilobytes can unpack to any number of gigabytes, through compression or through the shape in a
header.
"""

import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from omfa_jax.core.paths import to_path

# a file may unpack to at most MAX_UNPACKED_BYTES (the largest body models need a third of it) and,
# above UNCONDITIONAL_BYTES, to at most MAX_RATIO times its own size (dense floats compress to a
# third at best, mostly zero arrays such as skinning weights to a fiftieth)
MAX_UNPACKED_BYTES, UNCONDITIONAL_BYTES, MAX_RATIO = 2 * 2**30, 256 * 2**20, 100
# numpy's own limit for the header of an .npy
MAX_HEADER_BYTES = 10_000
# the bit of a zip member's flags that marks encryption
ENCRYPTED_FLAG = 1
# what np.savez and np.savez_compressed write; readers of other methods ignore a size limit
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# what zipfile and zlib raise for damaged files besides OSError, ValueError and KeyError
UNPACK_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
# version 3.0 is only written for structured arrays with non-Latin field names
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


# a member of a zip file is no typing.IO at run time
ByteStream = IO[bytes] | io.BufferedIOBase


class UnpackedSizeError(ValueError):
    """A file would unpack to more than `get_size_limit` its size allows."""

    def __init__(self, unpacked: str, packed_bytes: int):
        super().__init__(
            f"it unpacks to {unpacked}, over the limit of"
            f" {get_size_limit(packed_bytes) / 1e9:.2f} GB for"
            f" a file of {packed_bytes / 1e6:.1f} MB (core/npz_reader.py)"
        )


def get_size_limit(packed_bytes: int) -> int:
    """Return the largest unpacked size in bytes allowed for a file of `packed_bytes`."""
    return min(MAX_UNPACKED_BYTES, max(UNCONDITIONAL_BYTES, MAX_RATIO * packed_bytes))


def get_file_size(file: ByteStream) -> int:
    """Return an open file's size in bytes, and rewind it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def read_bounded(stream: Any, packed_bytes: int) -> bytes:
    """Return the contents of an unpacking stream; UnpackedSizeError beyond the size limit."""
    limit = get_size_limit(packed_bytes)
    # one byte more than allowed shows whether the rest exceeds the limit, without unpacking it
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise UnpackedSizeError("more", packed_bytes)
    return data


def check_zip(file: ByteStream) -> list[zipfile.ZipInfo]:
    """Return a zip archive's members; UnpackedSizeError if their stated sizes exceed the limit."""
    packed = get_file_size(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > get_size_limit(packed):
        raise UnpackedSizeError(f"{total / 1e9:.1f} GB", packed)
    odd = [member.filename for member in members if member.compress_type not in _METHODS]
    if any(member.flag_bits & ENCRYPTED_FLAG for member in members):
        raise ValueError("its members are encrypted")
    if odd:
        raise ValueError(
            f"{odd[0]} uses a compression method other than numpy's (stored, deflated)"
        )
    return members


def require_uncompressed(path: str | os.PathLike) -> None:
    """Raise a ValueError for a zip archive with compressed members; torch.save never writes one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED]
        if packed or sum(m.file_size for m in members) > os.path.getsize(path):
            raise ValueError("its members are compressed, which torch.save never does")


def iter_members(file: ByteStream) -> Iterator[tuple[str, ByteStream, int]]:
    """Yield (name without .npy, stream, unpacked bytes) of each array in an .npz file.

    Raises ValueError (UnpackedSizeError) or one of UNPACK_ERRORS if the file is not a valid .npz.
    """
    members = check_zip(file)
    with zipfile.ZipFile(file) as archive:
        for member in members:
            with archive.open(member) as stream:
                yield member.filename.removesuffix(".npy"), stream, member.file_size


def read_array(stream: ByteStream, size_bytes: int) -> np.ndarray | None:
    """Return the array of an .npy stream of `size_bytes`; None for an array of Python objects.

    Raises ValueError if the shape in the header needs more bytes than the file has.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"its .npy format version is {version}; expected 1.0 or 2.0")
    field = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(field, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"its header has {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed"
        )
    text = stream.read(length)
    try:
        shape, fortran, dtype = _HEADERS[version](io.BytesIO(field + text))
    # a header is a Python literal, so a damaged one fails in Python's tokenizer and parser
    except (RecursionError, tokenize.TokenError, TypeError, MemoryError) as error:
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if dtype.hasobject:
        return None
    count = 1
    for length in shape:
        if type(length) is not int:
            raise ValueError(f"its header has {shape}, which is not a shape")
        count *= length
    wanted, there = count * dtype.itemsize, size_bytes - stream.tell()
    if count < 0 or wanted > there:
        raise ValueError(
            f"its header has shape {shape} {dtype}, {wanted:,} bytes; the file has {there:,}"
        )
    # with an explicit size: read() without one may unpack beyond the stated size
    array = np.frombuffer(bytearray(stream.read(wanted)), dtype, count)
    return array.reshape(shape, order="F" if fortran else "C")


def read_arrays(file: ByteStream) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz without those of Python objects; raises as `iter_members`."""
    read = {name: read_array(stream, size) for name, stream, size in iter_members(file)}
    return {name: array for name, array in read.items() if array is not None}


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Return the array of an .npy file; OSError or ValueError if it is not one."""
    with to_path(path).open("rb") as file:
        array = read_array(file, get_file_size(file))
    if array is None:
        raise ValueError("it contains Python objects")
    return array
