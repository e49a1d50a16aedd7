"""Build a generated data set in each layout, once intact and once with 1% of its files damaged.

    PYTHONPATH=.:tests python bench/dataset_builds.py --workdir DIR --count 2000

From the intact set nothing may be lost. From the damaged one (at least ten kinds of damage, see
tests/damage.py) every damaged photo must be named in the report and all others must be in the
records. DeepFashion-MultiModal photos without a label map are also named if the only map of their
group is damaged. Prints one row per layout; exit status 1 if a check fails.
"""

import argparse
import itertools
import os
import resource
import time
from pathlib import Path

from damage import SKIPPED, WAYS, bad_name, file_of

from omfa_jax.data.builders.build_records import BUILDERS, build_records
from omfa_jax.data.records.record_schema import open_records
from omfa_jax.synthetic.world_writer import LAYOUTS, write_world

DAMAGED_SHARE = 0.01


def main() -> int:
    """Run every layout; return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, required=True, help="a new folder, for the generated data sets"
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--damaged", type=int, help="files to damage (default: 1%%)")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(
        "| layout | written | built | damaged | named | others built | s to write, build | holds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    held = [row(layout, options) for layout in LAYOUTS]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the main process: {peak:.0f} MiB")
    return 0 if all(held) else 1


def row(layout: str, options: argparse.Namespace) -> bool:
    raw, records = options.workdir / layout, options.workdir / f"{layout}-records"
    start = time.perf_counter()
    size = {"height_px": options.height, "width_px": options.width}
    counts = {"train": options.count}
    write_world(raw, seed=11, counts=counts, layout=layout, processes=options.processes, **size)
    written = time.perf_counter() - start
    take = {"dataset": layout, "processes": options.processes, "overwrite": True}
    sound = build_records(raw, records, **take)
    built_s = time.perf_counter() - start - written
    share = max(len(WAYS[layout]), round(options.count * DAMAGED_SHARE))
    expected = damage(layout, raw, options.damaged or share)
    report = build_records(raw, records, **take)
    skipped = {key.split("/", 1)[1]: reason for key, reason in report.skipped}
    named = [key for key, (outcome, word) in expected.items() if told(key, outcome, word, report)]
    good = {item for item in keys(layout, raw) if item not in skipped}
    kept = set()
    for split, count in report.built_per_split.items():
        source = open_records(records, split)
        kept |= {source[index].key for index in range(count)}
    lost = set(skipped) - set(expected)
    explained = all("no garment" in skipped[key] for key in lost)
    holds = (
        (sound.built, sound.skipped) == (options.count, [])
        and len(named) == len(expected)
        and kept == good
        and (not lost or (layout == "deepfashion_multimodal" and explained))
    )
    print(
        f"| {layout} | {options.count} | {sound.built} | {len(expected)} | {len(named)} |"
        f" {len(kept)} (+{len(lost)} without a garment) | {written:.0f}, {built_s:.1f} |"
        f" {'holds' if holds else '**no**'} |"
    )
    return holds


def keys(layout: str, raw: Path) -> set[str]:
    splits = BUILDERS[layout].list_items(str(raw), [])
    return {item.key for items in splits.values() for item in items}


def damage(layout: str, raw: Path, count: int) -> dict[str, tuple[str, str]]:
    """Damage `count` files, each kind in turn; return {key: (outcome, word in the report)}."""
    splits = BUILDERS[layout].list_items(str(raw), [])
    items = [item for members in splits.values() for item in members]
    if layout == "deepfashion_multimodal":
        items = [item for item in items if item.segm]
    expected = {}
    step = max(1, len(items) // count)
    ways = itertools.cycle(WAYS[layout].values())
    for item, (which, do, outcome, word) in zip(items[::step][:count], ways, strict=False):
        path, key = file_of(item, which), item.key
        if do is bad_name:
            key = f"IMG {path.name[-24:]}".removesuffix(path.suffix)
        do(path)
        expected[key] = (outcome, word)
    return expected


def told(key: str, outcome: str, word: str, report) -> bool:
    if outcome == SKIPPED:
        return any(name.endswith(f"/{key}") and word in reason for name, reason in report.skipped)
    return any(key in line and word in line for line in report.warnings)


if __name__ == "__main__":
    raise SystemExit(main())
