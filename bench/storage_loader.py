"""Records in object storage: the loader's rate, its listings, and the start with many shards.

    PYTHONPATH=.:tools python bench/storage_loader.py [--people 48] [--shards 5000] [--rounds 3]

Builds records of synthetic people to a disk and to a server of gs:// on loopback, and reads batches
in turn (A B C A B C) with one thread, so that decoding is what takes the time: from the disk, from
the bucket alone, and from the bucket with copies in the background, which start anew each time.
Then it makes one record into many shards, and opens them from both, the local ones with 1,024 files
at most.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gs_emulator
import numpy as np

from omfa_jax.core.paths import AnyPath, RemotePath, to_path
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.grain_pipeline import make_train_iterator
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.data.records.record_schema import DATASET_INFO, MANIFEST, open_records, read_manifest
from omfa_jax.synthetic.world_writer import write_world

HEIGHT, WIDTH = 512, 384
SLOTS = {"garment": (HEIGHT, WIDTH), "person": (HEIGHT, WIDTH), "face": (HEIGHT // 2, WIDTH // 2)}
BATCH, BATCHES = 8, 24
MOST_FILES = 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=48)
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open", default="", help="internal: open and read the shards there")
    options = parser.parse_args()
    if options.open:
        resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
        print(describe_start(to_path(options.open), options.shards))
        return
    with tempfile.TemporaryDirectory() as temporary, gs_emulator.start_server() as url:
        os.environ.update(gs_emulator.make_environment(url))
        root, bucket = Path(temporary), RemotePath("gs://bucket/bench")
        counts = {"train": options.people}
        write_world(root / "raw", seed=0, counts=counts, height_px=HEIGHT, width_px=WIDTH)
        places: list[AnyPath] = [root / "records", bucket / "records"]
        for place in places:
            build_records(root / "raw", place, shard_records=8)
        compare_rates(places, options.rounds)
        count_listings(bucket / "records")
        many: list[AnyPath] = [root / "many", bucket / "many"]
        for place in many:
            multiply_shard(root / "records", place, options.shards)
        command = [sys.executable, __file__, f"--open={many[0]}", f"--shards={options.shards}"]
        print(f"disk, {MOST_FILES} files at most: ", end="", flush=True)
        subprocess.run(command, check=True)
        print("gs://:", describe_start(many[1], options.shards))


def compare_rates(places: list[AnyPath], rounds: int) -> None:
    """Print the records per second of wall and of CPU time, in turn: the median of the rounds."""
    disk, store = places
    cases = (("disk", disk, "0"), ("gs:// alone", store, "0"), ("gs:// with copies", store, "100"))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in cases}
    for _ in range(rounds):
        for name, place, gigabytes in cases:
            with tempfile.TemporaryDirectory() as folder:
                os.environ.update(OMFA_SHARD_CACHE=folder, OMFA_SHARD_CACHE_GB=gigabytes)
                found[name].append(measure_rate(place))
    for kind, index in (("wall", 0), ("CPU", 1)):
        rates = {name: np.median([row[index] for row in rows]) for name, rows in found.items()}
        told = (f"{name} {rate:.0f} ({rate / rates['disk']:.0%})" for name, rate in rates.items())
        print(f"records/s of {kind} time: {', '.join(told)}")


def measure_rate(place: AnyPath) -> tuple[float, float]:
    """Return the records per second of wall and of CPU time, after the first batch."""
    settings = PipelineSettings(records=str(place), slots=SLOTS, threads=1)
    tasks = (Task("try_on", ("person",), 1.0, ""),)
    batches = make_train_iterator(settings, split="train", batch_size=BATCH, seed=0, tasks=tasks)
    next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        next(batches)
    count = BATCH * BATCHES
    return count / (time.perf_counter() - wall), count / (time.process_time() - cpu)


def count_listings(records: RemotePath) -> None:
    """Print how many listings opening a split and reading all of it costs."""
    listed, fs = [], records.fs
    for name in ("ls", "find", "glob", "walk"):
        call = getattr(fs, name)

        def counted(*given, call=call, name=name, **named):
            listed.append(name)
            return call(*given, **named)

        setattr(fs, name, counted)
    source = open_records(records, "train")
    for index in range(len(source)):
        _ = source[index]
    print(f"listings to open a split and read it whole: {len(listed)}")


def multiply_shard(records: Path, out: AnyPath, count: int) -> None:
    """Write records of `count` shards, all with the content of the first one of `records`."""
    manifest = read_manifest(records)
    folder = records / manifest["builder"]
    shard = next(iter(sorted(folder.glob("*-train.array_record-00000-*"))))
    info = json.loads((folder / DATASET_INFO).read_text())
    (split,) = (split for split in info["splits"] if split["name"] == "train")
    per_shard = int(split["shardLengths"][0])
    split |= {
        "shardLengths": [str(per_shard)] * count,
        "numBytes": str(count * len(shard.read_bytes())),
    }
    info["splits"] = [split]
    manifest["splits"] = {"train": per_shard * count}
    place = out / manifest["builder"]
    place.mkdir(parents=True, exist_ok=True)
    content, stem = shard.read_bytes(), shard.name.split("array_record-")[0]
    with ThreadPoolExecutor(8) as pool:
        names = [f"{stem}array_record-{index:05d}-of-{count:05d}" for index in range(count)]
        list(pool.map(lambda name: (place / name).write_bytes(content), names))
    (place / "features.json").write_text((folder / "features.json").read_text())
    (place / DATASET_INFO).write_text(json.dumps(info))
    (out / MANIFEST).write_text(json.dumps(manifest))


def describe_start(records: AnyPath, shards: int) -> str:
    """Return how long it takes to open the split, and to read a record of every shard."""
    start = time.perf_counter()
    source = open_records(records, "train")
    opened = time.perf_counter() - start
    step = len(source) // shards
    for index in range(shards):
        _ = source[index * step]
    read = time.perf_counter() - start - opened
    return f"{shards} shards opened in {opened:.1f} s, a record of each read in {read:.1f} s"


if __name__ == "__main__":
    main()
