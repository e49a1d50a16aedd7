"""safetensors files written as a stream of tensors, so that one at a time is in memory."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath, is_remote
from omfa_jax.weights.tensor_files import DTYPES, STEM, cast_tensor, write_json
from omfa_jax.weights.tensor_names import NameRow, to_contiguous

CODES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
# in bytes: the tensor data starts at a multiple of it, for aligned memory maps
ALIGNMENT = 64
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}

Chunks = Iterable[tuple[str, np.ndarray]]
Shape = tuple[int, ...]


def write_tensor_stream(
    path: Path, shapes: Mapping[str, Shape], dtype: str, chunks: Chunks, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file with tensors `shapes`, in this order, from `chunks`.

    A tensor may consist of several consecutive chunks. They must have `dtype` already (see
    `cast_chunks`). If the writer is killed, the file is shorter than its header says, and every
    reader rejects it.
    """
    # the format: 8 bytes of header length, a JSON header padded with spaces, the data
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, shape in shapes.items():
        end = offset + compute_size_bytes(shape, dtype)
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, chunk in chunks:
            file.write(as_bytes(chunk))
        written = file.tell() - 8 - len(text)
    assert written == offset, f"{path}: {written} bytes written, {offset} expected"


def mmap_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return a file's tensors as read-only memory maps, so that pages are read on access.

    The file must be complete; `tensors.open_safetensors` checks that.
    """
    # a plain array over the map, since slices of an np.memmap are slow to make
    data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    length = int.from_bytes(data[:8].tobytes(), "little")
    header = parse_json(data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    # offsets in the header are relative to the end of the header
    kinds = {CODES[dtype]: kind for dtype, kind in DTYPES.items()}
    body = data[8 + length :]
    return {
        name: body[slice(*entry["data_offsets"])]
        .view(kinds[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def cast_chunks(chunks: Chunks, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the chunks, contiguous and cast to `dtype`; OmfaError if a value overflows."""
    for name, chunk in chunks:
        yield name, to_contiguous(cast_tensor(name, chunk, dtype))


def hash_chunks(
    chunks: Chunks, digests: dict[str, "hashlib._Hash"]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the chunks unchanged and add their bytes to their tensor's SHA-256 in `digests`.

    A thread hashes each chunk while it is written and the next one is read, since hashing takes
    about as long as everything else.
    """
    with ThreadPoolExecutor(1) as thread:
        hashing = None
        for name, chunk in chunks:
            # one update at a time: the bytes of a digest must arrive in order
            if hashing is not None:
                hashing.result()
            digest = digests.setdefault(name, hashlib.sha256())
            hashing = thread.submit(digest.update, as_bytes(chunk))
            yield name, chunk


def as_bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array, also for dtypes without buffers (bfloat16)."""
    return array.reshape(-1).view(np.uint8).data


def compute_size_bytes(shape: Shape, dtype: str) -> int:
    """Return the size of a tensor on disk, in bytes."""
    return int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize


def parse_size(text: str) -> int:
    """Return the number of bytes in "5GB", "300MB" or "1.5GB" (powers of ten, as in diffusers)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size == 0:
        raise OmfaError(f"--max-shard-size: expected a size such as 5GB or 300MB, got {text!r}")
    return size


def require_space(folder: Path, needed: int, out: AnyPath) -> None:
    """Raise an OmfaError if the disk of `folder` has fewer than `needed` bytes free for `out`."""
    # checked before writing: a full disk would be found only after minutes of reading
    free = shutil.disk_usage(folder).free
    if free < needed:
        other = "let TMPDIR name a larger disk" if is_remote(out) else "choose another --out"
        raise OmfaError(
            f"the weights need {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free in"
            f" {folder.parent}; free some space or {other}"
        )


def split_shards(rows: Sequence[NameRow], dtype: str, max_bytes: int) -> list[list[NameRow]]:
    """Split the rows into shards of at most `max_bytes`; a larger tensor gets its own shard."""
    shards: list[list[NameRow]] = [[]]
    size = 0
    for row in rows:
        new = compute_size_bytes(row.shape, dtype)
        if shards[-1] and size + new > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(row)
        size += new
    return shards


def make_shard_names(count: int) -> list[str]:
    """Return diffusers' file names for a model of `count` shards."""
    if count == 1:
        return [f"{STEM}.safetensors"]
    return [f"{STEM}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def write_index(folder: Path, shards: Mapping[str, Sequence[NameRow]], dtype: str) -> None:
    """Write diffusers' index, which maps each tensor to its shard."""
    total = sum(compute_size_bytes(row.shape, dtype) for rows in shards.values() for row in rows)
    weight_map = {row.key: name for name, rows in shards.items() for row in rows}
    fields = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / f"{STEM}.safetensors.index.json", fields)
