"""Cost of the input pipeline relative to the unavoidable work: reading bytes and decoding JPEG.

    PYTHONPATH=. python bench/input_pipeline.py        # temporary records, about 400 MB
    PYTHONPATH=. python bench/input_pipeline.py --records DIR --split train    # your JPEG records

The two sides of each comparison alternate in one process, on the same records in the same order
with the same number of threads. Two ratios of their best runs are printed: records per second of
wall time, which other programs on the machine disturb, and records per second of CPU time, which
they disturb less. The limit applies to the first; on a busy machine the second is closer to what
an idle one would show.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageFilter

from omfa_jax.core import images
from omfa_jax.core.tasks import Task
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_train_iterator
from omfa_jax.data.pipeline.mixture import TrainingOrder
from omfa_jax.data.records import record_schema

SLOTS = {"garment": (1024, 768), "person": (1024, 768), "face": (512, 384)}
SHAPES = {
    "garment": [128, 96, 4],
    "person": [128, 96, 4],
    "face": [64, 48, 4],
    "pose": [128, 96, 4],
}
TASKS = (Task("try_on", ("person",), 0.5, ""), Task("try_off", ("garment",), 0.5, ""))
BATCH, SEED = 8, 0
# an epoch's order costs at least 70 ms, which is noticeable with fewer records
PHOTOS = 256
LATENTS_LIMIT, JPEG_LIMIT, GROWTH_LIMIT = 0.60, 0.80, 1.10


class Written(tfds.core.GeneratorBasedBuilder):
    """TFDS builder for records that already exist."""

    name = "bench"
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def __init__(self, *, kind: record_schema.Kind, records: Iterator[Any], **options: Any):
        self._kind: record_schema.Kind = kind
        self._records = records
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = record_schema.make_features(self._kind)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[Any]:
        return ((i, record_schema.to_example(record)) for i, record in enumerate(self._records))


def write(
    folder: Path, kind: record_schema.Kind, records: Iterator[Any], count: int, **facts: Any
) -> str:
    """Write a records folder and return it."""
    folder.mkdir()
    builder = Written(kind=kind, records=records, data_dir=folder, file_format="array_record")
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=folder / "downloads")
    place = str(builder.data_path.relative_to(folder))
    record_schema.write_manifest(folder, kind, place, splits={"train": count}, **facts)
    return str(folder)


def latents(count: int) -> Iterator[record_schema.LatentRecord]:
    """Yield standard normal latents, the scale of the VAE's."""
    rng = np.random.default_rng(0)
    for number in range(count):
        arrays: dict[str, Any] = {
            name: rng.standard_normal(shape, np.float32).astype("<f2").tobytes()
            for name, shape in SHAPES.items()
        }
        yield record_schema.LatentRecord(key=str(number), has_pose=True, **arrays)


def photos(count: int) -> Iterator[record_schema.Record]:
    """Yield records of 16 smooth images with some grain: JPEGs of 200 kB, PNG pose maps."""
    rng = np.random.default_rng(0)
    height, width = SLOTS["person"]
    jpegs = [images.encode_jpeg(_photo(rng, height, width)) for _ in range(16)]
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[100:900, 250:520] = _photo(rng, 800, 270, grain=0)
    pose = images.encode_png(drawn)
    for number in range(count):
        yield record_schema.Record(
            key=str(number),
            split="train",
            person=jpegs[number % 16],
            height_px=height,
            width_px=width,
            garment=jpegs[(number + 1) % 16],
            garment_source="in_shop",
            category="upper",
            has_face=True,
            face_box_px=(300.0, 60.0, 460.0, 220.0),
            has_pose=True,
            pose=pose,
            unpaired_garment_key="",
            unpaired_garment=b"",
        )


def _photo(rng: np.random.Generator, height: int, width: int, grain: float = 4) -> np.ndarray:
    coarse = rng.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.normal(0, grain, (height, width, 1))
    soft = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    return np.asarray(soft.filter(ImageFilter.GaussianBlur(1)) if grain else soft)


class Rate(NamedTuple):
    """Records per second of wall time, and of CPU time summed over all threads."""

    wall: float
    processor: float


@contextlib.contextmanager
def timed(records: int) -> Iterator[Callable[[], Rate]]:
    """Yield a function that returns the block's rate; call it after the block."""
    began, used = time.perf_counter(), time.process_time()
    ended: list[float] = []
    yield lambda: Rate(records / ended[0], records / ended[1])
    ended += [time.perf_counter() - began, time.process_time() - used]


def turns(sides: dict[str, Callable[[], Rate]], rounds: int) -> dict[str, list[Rate]]:
    """Return each side's rates, interleaved A B A B, after one run of each that is not counted."""
    for side in sides.values():
        side()
    rates: dict[str, list[Rate]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(side())
    return rates


def ours(folder: str, split: str, batches: int, threads: int, **changes: Any) -> Rate:
    """Return the pipeline's steady rate: equally much is prefetched before and after."""
    settings = PipelineSettings(folder, SLOTS, threads=threads, prefetch_batches=threads, **changes)
    options = {"split": split, "batch_size": BATCH, "seed": SEED, "tasks": TASKS}
    iterator = make_train_iterator(settings, **options)
    for _ in range(threads + 1):
        next(iterator)
    with timed(batches * BATCH) as rate:
        for _ in range(batches):
            next(iterator)
    iterator.close()
    return rate()


def theirs(work: Callable[[int], Any], order: list[int], threads: int) -> Rate:
    """Return the rate of the bare work on the same records with the same number of threads."""
    with timed(len(order)) as rate, ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, order):
            pass
    return rate()


def decoded(record: record_schema.Record) -> list[np.ndarray]:
    """Return the pixels of a record's images, decoded with Pillow."""
    encoded = filter(None, (record.person, record.garment, record.pose))
    return [np.asarray(Image.open(io.BytesIO(picture))) for picture in encoded]


def loaded(record: record_schema.Record) -> None:
    """Decode a record's images with Pillow without copying the pixels out of it."""
    for encoded in filter(None, (record.person, record.garment, record.pose)):
        Image.open(io.BytesIO(encoded)).load()


def compared(
    what: str, bare: list[Rate], pipeline: list[Rate], megabytes: float, limit: float | None
) -> bool:
    """Print one row of the table; return whether the limit holds."""
    wall, bare_wall = (max(rate.wall for rate in side) for side in (pipeline, bare))
    used, bare_used = (max(rate.processor for rate in side) for side in (pipeline, bare))
    each = [b.wall / a.wall for a, b in zip(bare, pipeline, strict=True)]
    holds = limit is None or wall / bare_wall >= limit
    verdict = (
        "|  |  |" if limit is None else f"| >= {limit:.0%} | {'holds' if holds else 'FAILS'} |"
    )
    print(
        f"| {what} | {wall:.0f}/s ({wall * megabytes:.0f} MB/s) of {bare_wall:.0f}/s:"
        f" {wall / bare_wall:.0%} (median of turns {statistics.median(each):.0%}); by processor"
        f" time {used / bare_used:.0%} {verdict}",
        flush=True,
    )
    return holds


def order_seconds(count: int, draws: int = 3000) -> float:
    """Return the seconds it takes to look up a position in the order of `count` records."""
    order = TrainingOrder([count], [1.0], SEED)
    start = time.perf_counter()
    for position in range(draws):
        order[position]
    return (time.perf_counter() - start) / draws


def main() -> None:
    """Print the table; return 1 if a limit fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--records", default="", help="JPEG records to read instead of generated ones"
    )
    parser.add_argument("--split", default="train", help="split of --records")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latents", type=int, default=1000, help="number of generated latents")
    options = parser.parse_args()
    threads, rounds = options.threads, options.rounds
    held = []
    print(f"{threads} threads, {rounds} turns a side\n")
    print("| what | figure | limit | |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        facts = {"vae_id": "v", "slots": {n: list(s) for n, s in SLOTS.items()}, "shapes": SHAPES}
        folder = write(
            Path(scratch, "latents"), "latents", latents(options.latents), options.latents,
            latents=facts,
        )  # fmt: skip
        source = record_schema.open_records(folder, "train")
        batches = options.latents // BATCH
        order = TrainingOrder([len(source)], [1.0], SEED)
        indices = [order[position].index for position in range(batches * BATCH)]
        sides = {
            "raw": lambda: theirs(source.read_encoded, indices, threads),
            "ours": lambda: ours(folder, "train", batches, threads, vae_id="v"),
        }
        megabytes = len(source.read_encoded(0)) / 1e6
        what = "latents at 768x1024, relative to raw ArrayRecord"
        rates = turns(sides, rounds)
        held.append(compared(what, rates["raw"], rates["ours"], megabytes, LATENTS_LIMIT))

        folder, split = options.records, options.split
        if not folder:
            folder, split = (
                write(Path(scratch, "images"), "images", photos(PHOTOS), PHOTOS),
                "train",
            )
        source = record_schema.open_records(folder, split)
        pictures = [source[index] for index in range(len(source))]
        batches = 12
        order = TrainingOrder([len(pictures)], [1.0], SEED)
        indices = [order[position].index for position in range(batches * BATCH)]
        sides = {
            "pillow": lambda: theirs(lambda i: decoded(pictures[i]).clear(), indices, threads),
            "ours": lambda: ours(folder, split, batches, threads),
            "loaded": lambda: theirs(lambda i: loaded(pictures[i]), indices, threads),
        }
        encoded = [len(r.person) + len(r.garment) + len(r.pose) for r in pictures]
        rates = turns(sides, rounds)
        what = "JPEG records at 768x1024, relative to Pillow alone"
        megabytes = statistics.mean(encoded) / 1e6
        held.append(compared(what, rates["pillow"], rates["ours"], megabytes, JPEG_LIMIT))
        what = "the same, relative to Pillow without copying the pixels"
        compared(what, rates["loaded"], rates["ours"], megabytes, None)

    small, large = (min(order_seconds(n) for _ in range(rounds)) for n in (10**3, 10**6))
    ratio = large / small
    verdict = "holds" if ratio <= GROWTH_LIMIT else "FAILS"
    print(
        f"| order of a record among 1e6, of 1e3 | {large * 1e6:.0f} us of {small * 1e6:.0f} us:"
        f" {ratio:.2f} times | <= {GROWTH_LIMIT} times | {verdict} |"
    )
    sys.exit(0 if all(held) and ratio <= GROWTH_LIMIT else 1)


if __name__ == "__main__":
    main()
