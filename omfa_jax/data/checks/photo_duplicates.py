"""Find duplicate photos by a perceptual hash and the colours of thumbnails.

Two photos are candidates if their 64-bit hashes (low DCT frequencies of the grey image, compared
with their median) differ in few bits. They are duplicates if the colours of their thumbnails also
match after brightness and contrast are equalized: a model in the same pose in two dresses has
similar hashes but is no duplicate.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64
from PIL import Image
from tqdm import tqdm

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.process_pool import ordered_map
from omfa_jax.core.value_rules import IntRange, check_value
from omfa_jax.data.checks.fingerprints import THUMB_SIDE_PX, Fingerprint, FingerprintStore
from omfa_jax.data.records.record_schema import SPLITS

HASH_SIDE, HASHED_SIDE_PX = 8, 32
# pairs compared at once, which bounds the memory
PAIRS_PER_BLOCK = 2**21
# measured on synthetic people and real photos: copies re-encoded, resized or brightened by 10%
# differ by 6 bits and 5.5 at most; different people by 8 bits and 21 at least, and one person in
# two garments by 6 bits and 15 (colour distance)
MAX_DISTANCE_BITS = 10
# the hashes of unrelated photos differ in about 32 bits of 64
DISTANCE_RULE = IntRange(0, 32)
MAX_COLOR_DISTANCE = 8.0
MAX_GROUPS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PhotoEntry:
    """A photo: its split, its name in lists, and its file if it has one."""

    split: str
    name: str
    path: AnyPath = Path()


@dataclass(frozen=True)
class DuplicateGroup:
    """A group of duplicates: the photo to keep, and the others with their distances in bits."""

    kept: PhotoEntry
    others: tuple[tuple[PhotoEntry, int], ...]


@dataclass(frozen=True)
class DuplicateReport:
    """The duplicates among `photos` photos; `unreadable`: (photo, reason)."""

    photos: int
    groups: tuple[DuplicateGroup, ...]
    unreadable: tuple[tuple[PhotoEntry, str], ...]


def find_duplicates(
    photos: Sequence[PhotoEntry], *, max_distance_bits: int = MAX_DISTANCE_BITS, processes: int = 1
) -> DuplicateReport:
    """Return the duplicates among photos, within and across splits.

    The first photo of a group is kept, in the order train, val, test: a photo that test shares with
    train is dropped from test. All pairs are compared: 50,000 photos take 12 s on one slow core.
    """
    if (error := check_value("--distance", DISTANCE_RULE, max_distance_bits)) is not None:
        raise error
    # fixes which photo of a group is kept, whatever order the file system lists them in
    ordered = sorted(photos, key=lambda photo: (SPLITS.index(photo.split), photo.name))
    prints, readable, unreadable = FingerprintStore(), [], []
    for photo, outcome in zip(ordered, _fingerprints(ordered, processes), strict=True):
        if isinstance(outcome, str):
            unreadable.append((photo, outcome))
        else:
            readable.append(photo)
            prints.add(outcome)
    groups = group_duplicates(readable, prints, max_distance_bits)
    return DuplicateReport(len(photos), tuple(groups), tuple(unreadable))


def group_duplicates(
    photos: Sequence[PhotoEntry],
    prints: FingerprintStore,
    max_distance_bits: int = MAX_DISTANCE_BITS,
) -> list[DuplicateGroup]:
    """Return the groups of photos with similar fingerprints; the first of each is kept."""
    if not len(prints):
        return []
    hashes = prints.hashes()
    return _make_groups(photos, hashes, _labels(hashes, prints.thumbs(), max_distance_bits))


def compute_fingerprint(
    path: str | os.PathLike | bytes,
) -> Fingerprint:
    """Return the 64-bit hash and the thumbnail of a photo, given as a file or its bytes."""
    image = Image.fromarray(images.read_rgb(path, "photo"))
    size = (HASHED_SIDE_PX, HASHED_SIDE_PX)
    # BOX averages all pixels, so that the resampling of a copy hardly changes the hash
    grey = image.convert("L").resize(size, Image.Resampling.BOX)
    basis = _make_dct_matrix()
    low = basis @ np.asarray(grey, np.float64) @ basis.T
    # without the mean, which depends on the exposure only
    values = low.ravel()[1:]
    bits = np.concatenate([[False], values > np.median(values)])
    code = int.from_bytes(np.packbits(bits).tobytes(), "big")
    thumb = image.resize((THUMB_SIDE_PX, THUMB_SIDE_PX), Image.Resampling.BOX)
    return code, np.asarray(thumb)


def format_duplicate_report(report: DuplicateReport) -> str:
    """Return the report as text: counts, the first 20 groups, every unreadable photo."""
    others = [(group.kept, photo) for group in report.groups for photo, _ in group.others]
    leaked = sum(kept.split != photo.split for kept, photo in others)
    lines = [
        f"{report.photos} photos: {len(report.groups)} groups of duplicates, {len(others)} to leave"
        f" out ({leaked} of them in another split than the photo kept)"
    ]
    for group in report.groups[:MAX_GROUPS_SHOWN]:
        others_text = ", ".join(
            f"{photo.split} {photo.name} ({bits} bits)" for photo, bits in group.others
        )
        lines.append(f"  {group.kept.split} {group.kept.name}: {others_text}")
    if len(report.groups) > MAX_GROUPS_SHOWN:
        lines.append(f"  ... and {len(report.groups) - MAX_GROUPS_SHOWN} more groups in the list")
    lines += [f"cannot read {photo.name}: {reason}" for photo, reason in report.unreadable]
    return "\n".join(lines)


@lru_cache(maxsize=1)
def _make_dct_matrix() -> Float[np.ndarray, "8 32"]:
    """Return the first rows of the DCT-II matrix."""
    rows, columns = np.arange(HASH_SIDE)[:, None], np.arange(HASHED_SIDE_PX)[None]
    return np.cos(np.pi / HASHED_SIDE_PX * (columns + 0.5) * rows)


def _fingerprints(photos: Sequence[PhotoEntry], processes: int) -> Iterator[Fingerprint | str]:
    paths = [photo.path for photo in photos]
    bar = {"total": len(paths), "desc": "photos", "unit": "photo", "disable": None}
    yield from tqdm(ordered_map(_try_fingerprint, paths, processes), **bar)


def _try_fingerprint(path: AnyPath) -> Fingerprint | str:
    try:
        return compute_fingerprint(path)
    except OmfaError as error:
        return str(error)


def _labels(
    hashes: UInt64[np.ndarray, "n"],
    thumbs: UInt8[np.ndarray, "n 16 16 3"],
    max_distance_bits: int,
) -> Int[np.ndarray, "n"]:
    """Return the index of the first photo of each photo's group."""
    labels, rows_at_once = np.arange(len(hashes)), max(1, PAIRS_PER_BLOCK // len(hashes))
    for start in range(0, len(hashes), rows_at_once):
        block = hashes[start : start + rows_at_once, None]
        # columns before the block were compared when they were rows
        distances = np.bitwise_count(block ^ hashes[None, start:])
        apart = labels[start : start + rows_at_once, None] != labels[None, start:]
        rows, columns = np.nonzero((distances <= max_distance_bits) & apart)
        for i, j in zip(rows + start, columns + start, strict=True):
            if i < j and labels[i] != labels[j]:
                if compute_color_distance(thumbs[i], thumbs[j]) > MAX_COLOR_DISTANCE:
                    continue
                # union by the smaller index, so that the first photo names the group
                first, second = sorted((labels[i], labels[j]))
                labels[labels == second] = first
    return labels


def compute_color_distance(
    first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]
) -> float:
    """Return the mean absolute difference (of 255) after equalizing brightness and contrast.

    One gain and one offset for all three channels, as between a photo and a brighter copy. Each
    photo is matched to the other; the larger difference counts.
    """
    x, y = (thumb.astype(np.float64).ravel() for thumb in (first, second))
    x, y = x - x.mean(), y - y.mean()
    # least squares; a negative gain would match a photo with its negative
    common = max(float(x @ y), 0.0)
    gains = (common / max(float(a @ a), 1e-9) for a in (x, y))
    return max(
        float(np.abs(gain * a - b).mean())
        for gain, (a, b) in zip(gains, ((x, y), (y, x)), strict=True)
    )


def _make_groups(
    photos: Sequence[PhotoEntry], hashes: UInt64[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> list[DuplicateGroup]:
    members: dict[int, list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(i)
    return [
        DuplicateGroup(photos[kept], tuple((photos[i], _count_bits(hashes, kept, i)) for i in rest))
        for kept, *rest in members.values()
        if rest
    ]


def _count_bits(hashes: UInt64[np.ndarray, "n"], i: int, j: int) -> int:
    return int(np.bitwise_count(hashes[i] ^ hashes[j]))
