"""Write a world as a raw folder: VITON-HD's layout, body parameters, and the truth for tests."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from omfa_jax.body.params_file import save_body
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import atomic_write, require_writable_dir
from omfa_jax.core.images import write_image
from omfa_jax.data.world.photo import Photo, World

VERSION = 1
# people and garments of a split carry the numbers from its start: five digits, no overlap
SPLIT_STARTS = {"train": 0, "val": 80_000, "test": 90_000}
SPLIT_LIMITS = {"train": 80_000, "val": 9_999, "test": 9_999}
TRUTH_SPLITS = ("val", "test")
FINISHED, UNFINISHED = "world.json", ".world.json"

# the colours under which CIHP tools show the ids 0..19; the ids alone carry meaning
CIHP_PALETTE = bytes.fromhex(
    "000000800000fe0000005500a90033fe5500000055"
    "0077dc5555000055555533003456800080000000fe"
    "33a9dc00fefe55fea9a9fe55fefe00fea900"
)


@dataclass(frozen=True)
class Settings:
    """What a written world depends on."""

    seed: int
    height_px: int
    width_px: int
    supersample: int = 2


@dataclass(frozen=True)
class WorldReport:
    """What `write_world` did: `written` people, and `kept` ones that were complete already."""

    root: Path
    written: int
    kept: int


def write_world(
    root: str | os.PathLike,
    *,
    seed: int,
    counts: Mapping[str, int],
    height_px: int,
    width_px: int,
    supersample: int = 2,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> WorldReport:
    """Write the raw folder of a world, and return how much of it was new.

    `counts` gives the number of people for "train", "val" and "test" (absent: none). Files are
    whole or absent; complete people are skipped, so that an interrupted call can be repeated, and
    counts can grow later. `progress(done, total)` is called after each person. `world.json` is
    written last: it marks a complete folder. Raises OmfaError for impossible counts, or if the
    folder holds a world of another seed or size.
    """
    if seed < 0 or min(height_px, width_px, supersample) < 1:
        raise OmfaError(
            f"--seed must be 0 or more and --height and --width 1 or more, got {seed}, {height_px}"
            f" and {width_px}"
        )
    settings = Settings(seed, height_px, width_px, supersample)
    counts = _checked_counts(counts)
    root = require_writable_dir(root, "--out")
    before = _claim(root, settings)
    jobs = {split: split_jobs(split, count, seed) for split, count in counts.items()}
    total, written = sum(map(len, jobs.values())), 0
    work = partial(_write_job, root, settings)
    for done, new in enumerate(_run(work, [*chain(*jobs.values())], processes), start=1):
        written += new
        if progress is not None:
            progress(done, total)
    for split, people in jobs.items():
        with atomic_write(root / f"{split}_pairs.txt") as temporary:
            temporary.write_text("".join(f"{job.name} {job.second_column}\n" for job in people))
    description = {"version": VERSION, **asdict(settings), "counts": before | counts}
    _write_json(root / FINISHED, description)
    (root / UNFINISHED).unlink(missing_ok=True)
    return WorldReport(root, written, total - written)


@dataclass(frozen=True)
class Job:
    """One person of a split: `index` wears garment `index`; `unpaired` is the garment to try on."""

    split: str
    index: int
    unpaired: int

    @property
    def stem(self) -> str:
        """The name shared by the person's files, without a suffix."""
        return f"{self.index:05d}_00"

    @property
    def name(self) -> str:
        """The file name of the photo, and of its own garment."""
        return f"{self.stem}.jpg"

    @property
    def second_column(self) -> str:
        """The garment in the pairs file: the own one in train, another one elsewhere."""
        garment = self.unpaired if self.split in TRUTH_SPLITS else self.index
        return f"{garment:05d}_00.jpg"

    @property
    def truths(self) -> tuple[tuple[int, int, int], ...]:
        """(person, garment, pose) of the exact answers: the unpaired garment, then a new pose."""
        if self.split not in TRUTH_SPLITS:
            return ()
        i = self.index
        answers = ((i, self.unpaired, i), (i, i, i + 1))
        return answers[1:] if self.unpaired == i else answers


def split_jobs(split: str, count: int, seed: int) -> list[Job]:
    """Return the people of a split; unpaired garments are a random cycle through all of them."""
    start = SPLIT_STARTS[split]
    order = np.random.default_rng([seed, start, count]).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return [Job(split, start + i, start + int(partner[i])) for i in range(count)]


def _checked_counts(counts: Mapping[str, int]) -> dict[str, int]:
    for split, count in counts.items():
        if split not in SPLIT_STARTS:
            raise unknown("split", split, SPLIT_STARTS)
        if not 0 <= count <= SPLIT_LIMITS[split]:
            limit = SPLIT_LIMITS[split]
            raise OmfaError(f"{split} people: expected 0 to {limit}, got {count}; change counts")
    return {split: int(counts.get(split, 0)) for split in SPLIT_STARTS if counts.get(split, 0)}


def _claim(root: Path, settings: Settings) -> dict[str, int]:
    """Refuse a folder of another world, mark a fresh one; return the counts written before."""
    expected = {"version": VERSION, **asdict(settings)}
    counts: dict[str, int] = {}
    for path in (root / UNFINISHED, root / FINISHED):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text())
        except ValueError:
            raise OmfaError(f"{path}: not valid JSON; give another folder to --out") from None
        for key, value in expected.items():
            if found.get(key) != value:
                came = f"{key} {found.get(key)}, asked for {value}"
                raise OmfaError(f"{root} holds another world ({came}); give another --out")
        counts = found.get("counts", {})
    if not counts:
        _write_json(root / UNFINISHED, expected)
    return counts


def _write_json(path: Path, value: object) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def _run(work: Callable[[Job], bool], jobs: list[Job], processes: int) -> Iterator[bool]:
    if processes <= 1:
        yield from map(work, jobs)
        return
    # spawn, not fork: callers may have started threads
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(work, jobs, chunksize=8)


_worlds: dict[Settings, World] = {}


def _world(settings: Settings) -> World:
    """This process's world: its buffers are made once."""
    if settings not in _worlds:
        _worlds[settings] = World(**asdict(settings))
    return _worlds[settings]


def _write_job(root: Path, settings: Settings, job: Job) -> bool:
    """Write the files of one person that are missing; tell whether there were any."""
    folder, i = root / job.split, job.index

    def shop_photo() -> tuple[np.ndarray, np.ndarray]:
        world = _world(settings)
        return world.garment_photo(world.garment(i))

    def photo(person: int, garment: int, pose: int) -> Photo:
        world = _world(settings)
        members = world.person(person), world.garment(garment), world.pose(pose)
        return world.photo(*members, world.view(person))

    garment_files = {name: folder / name / job.name for name in ("cloth", "cloth-mask")}
    keypoints = {"openpose_json": folder / "openpose_json" / f"{job.stem}_keypoints.json"}
    wrote = [
        _fill(garment_files, shop_photo),
        _fill(_photo_files(folder, job.stem) | keypoints, lambda: photo(i, i, i)),
    ]
    for truth in job.truths:
        stem = "_".join(f"{number:05d}" for number in truth)
        wrote.append(_fill(_photo_files(folder / "truth", stem), partial(photo, *truth)))
    return any(wrote)


def _photo_files(folder: Path, stem: str) -> dict[str, Path]:
    suffixes = {"smplx": ".npz", "image-parse-v3": ".png", "image": ".jpg"}
    return {name: folder / name / f"{stem}{suffix}" for name, suffix in suffixes.items()}


def _fill(files: Mapping[str, Path], draw: Callable[[], Any]) -> bool:
    """Draw once and write every file that is not there yet; tell whether any was missing."""
    missing = {name: path for name, path in files.items() if not path.exists()}
    if missing:
        drawn = draw()
        for name, path in missing.items():
            _WRITERS[name](path, drawn)
    return bool(missing)


def write_parse(path: Path, parse: UInt8[np.ndarray, "h w"]) -> None:
    """Write CIHP ids as a palette PNG, as VITON-HD's image-parse-v3 has them."""
    image = Image.fromarray(parse)
    image.putpalette(CIHP_PALETTE)
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG")


def write_keypoints(path: Path, keypoints: Float32[np.ndarray, "25 3"]) -> None:
    """Write the keypoints in OpenPose's JSON format (BODY_25, one person)."""
    values = [round(float(value), 3) for value in keypoints.ravel()]
    person = {"person_id": [-1], "pose_keypoints_2d": values}
    _write_json(path, {"version": 1.3, "people": [person]})


_WRITERS: dict[str, Callable[[Path, Any], None]] = {
    "cloth": lambda path, drawn: write_image(path, drawn[0]),
    "cloth-mask": lambda path, drawn: write_image(path, drawn[1].astype(np.uint8) * 255),
    "image": lambda path, photo: write_image(path, photo.image),
    "image-parse-v3": lambda path, photo: write_parse(path, photo.parse),
    "openpose_json": lambda path, photo: write_keypoints(path, photo.keypoints),
    "smplx": lambda path, photo: save_body(path, photo.params, photo.camera),
}
