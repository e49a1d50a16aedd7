"""Arrays out of .npy and .npz files that are not believed: sizes are looked at before memory is.

A few kilobytes can say that they unpack to any number of gigabytes, by their compression or by the
shape in a header alone.
"""

import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

# what a packed file may unpack to: at most LIMIT_BYTES (the largest body models are a third of it)
# and, over PLAIN_BYTES, at most RATIO times its own size (numbers shrink to a third at best, arrays
# that are mostly zeros, as a skinning's weights, to a fiftieth)
LIMIT_BYTES, PLAIN_BYTES, RATIO = 2 * 2**30, 256 * 2**20, 100
# the longest header of an .npy, in bytes: numpy's own limit
HEADER_MAX = 10_000
# a flag of a zip archive's members
ENCRYPTED = 1
# what np.savez and np.savez_compressed write; the others' readers unpack without bound
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# what the unpackers raise beside OSError, ValueError and KeyError
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
# 3.0 is of tables whose columns have names outside of Latin
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class TooLarge(ValueError):
    """A file would unpack to more than `limit_of` its size."""

    def __init__(self, unpacked: str, packed_bytes: int):
        super().__init__(
            f"it unpacks to {unpacked}, over the limit of {limit_of(packed_bytes) / 1e9:.2f} GB for"
            f" a file of {packed_bytes / 1e6:.1f} MB (core/archives.py)"
        )


def limit_of(packed_bytes: int) -> int:
    """Return how many bytes a packed file of `packed_bytes` may unpack to."""
    return min(LIMIT_BYTES, max(PLAIN_BYTES, RATIO * packed_bytes))


def size_of(file: IO[bytes]) -> int:
    """Return an open file's size in bytes; it is at its beginning afterwards."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def read_bounded(stream: Any, packed_bytes: int) -> bytes:
    """Return all that an unpacking stream gives; TooLarge instead of more than it may."""
    limit = limit_of(packed_bytes)
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise TooLarge("more", packed_bytes)
    return data


def check_zip(file: IO[bytes]) -> list[zipfile.ZipInfo]:
    """Return what a zip archive holds; TooLarge if it says that it unpacks to more than it may."""
    packed = size_of(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > limit_of(packed):
        raise TooLarge(f"{total / 1e9:.1f} GB", packed)
    odd = [member.filename for member in members if member.compress_type not in _METHODS]
    if any(member.flag_bits & ENCRYPTED for member in members):
        raise ValueError("its members are encrypted")
    if odd:
        raise ValueError(f"{odd[0]} is packed by another method than numpy's (stored, deflated)")
    return members


def require_stored(path: str | os.PathLike) -> None:
    """Raise a ValueError for a zip archive with packed members, which torch.save never writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED]
        if packed or sum(m.file_size for m in members) > os.path.getsize(path):
            raise ValueError("its members are packed, as torch.save's never are")


def members_of(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes], int]]:
    """Yield (name without .npy, stream, unpacked bytes) of every array in an .npz.

    Raises ValueError (TooLarge) and DAMAGE for what is none.
    """
    members = check_zip(file)
    with zipfile.ZipFile(file) as archive:
        for member in members:
            with archive.open(member) as stream:
                yield member.filename.removesuffix(".npy"), stream, member.file_size


def read_array(stream: IO[bytes], size_bytes: int) -> np.ndarray | None:
    """Return the array of an .npy of `size_bytes`; None for one of Python objects.

    Raises ValueError for a header whose shape has no room in the file.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"it is of numpy's format {version}; expected 1.0 or 2.0")
    field = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(field, "little")
    if length > HEADER_MAX:
        raise ValueError(f"its header is of {length:,} bytes; numpy's have {HEADER_MAX:,} at most")
    text = stream.read(length)
    try:
        shape, fortran, dtype = _HEADERS[version](io.BytesIO(field + text))
    # a header is Python's text, read by Python's parser
    except (RecursionError, tokenize.TokenError, TypeError, MemoryError) as error:
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if dtype.hasobject:
        return None
    count = 1
    for length in shape:
        if type(length) is not int:
            raise ValueError(f"its header says {shape}, which is no shape")
        count *= length
    wanted, there = count * dtype.itemsize, size_bytes - stream.tell()
    if count < 0 or wanted > there:
        raise ValueError(f"its header says {shape} {dtype}, {wanted:,} bytes; there are {there:,}")
    # sized: an unpacking stream that is asked for all unpacks more than it gives
    array = np.frombuffer(bytearray(stream.read(wanted)), dtype, count)
    return array.reshape(shape, order="F" if fortran else "C")


def read_arrays(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz, without those of Python objects; errors as `members_of`'s."""
    read = {name: read_array(stream, size) for name, stream, size in members_of(file)}
    return {name: array for name, array in read.items() if array is not None}


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Return the array of an .npy file; OSError or ValueError for anything else."""
    with open(path, "rb") as file:
        array = read_array(file, size_of(file))
    if array is None:
        raise ValueError("it holds Python objects")
    return array
