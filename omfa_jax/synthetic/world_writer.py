"""Write a synthetic world as a raw data set folder, in the layout of any supported data set."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from omfa_jax.core.atomic_files import delete_stale_temporaries, exclusive_lock
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.process_pool import ordered_map
from omfa_jax.synthetic import deepfashion_layout, dresscode_layout, viton_hd_layout
from omfa_jax.synthetic.world import MIN_SIDE_PX
from omfa_jax.synthetic.world_folder import (
    FolderLayout,
    WorldSettings,
    check_counts,
    claim_folder,
    write_finished_marker,
)

LAYOUTS: dict[str, FolderLayout] = {
    "viton_hd": viton_hd_layout.LAYOUT,
    "deepfashion_multimodal": deepfashion_layout.LAYOUT,
    "dresscode": dresscode_layout.LAYOUT,
}


@dataclass(frozen=True)
class WorldReport:
    """The result of `write_world`: people `written`, and people `kept` from an earlier call."""

    root: AnyPath
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
    layout: str = "viton_hd",
) -> WorldReport:
    """Write a world as a raw data set folder.

    `counts`: number of people (photos) in "train", "val" and "test", 0 if missing. Files are
    written atomically and complete people are skipped, so that an interrupted call can be repeated
    and counts can grow later. `progress(done, total)` is called after each person. `world.json` is
    written last and marks a complete folder. Raises OmfaError for invalid counts, an unknown
    layout, or a folder with a world of another seed, size or layout, or with other files.
    """
    if layout not in LAYOUTS:
        raise make_unknown_name_error("data set (--dataset)", layout, LAYOUTS)
    if seed < 0 or supersample < 1 or min(height_px, width_px) < MIN_SIDE_PX:
        raise OmfaError(
            f"expected --seed of at least 0 and --height and --width of at least {MIN_SIDE_PX},"
            f" got {seed}, {height_px} and {width_px}"
        )
    settings = WorldSettings(seed, height_px, width_px, supersample)
    if processes < 1:
        raise OmfaError(f"--processes: expected 1 or more, got {processes}")
    counts = check_counts(counts)
    if not counts:
        raise OmfaError("--train, --val and --test are all 0: expected at least one person")
    shape = LAYOUTS[layout]
    jobs = {split: shape.jobs(split, count, settings) for split, count in counts.items()}
    total, written = sum(map(len, jobs.values())), 0
    root = require_any_writable_dir(root, "--out")
    # claimed before anything is deleted: a folder with other files is refused untouched
    with exclusive_lock(root):
        before = claim_folder(root, settings, layout)
        if isinstance(root, Path):
            for folder in (root, *root.glob("*/"), *root.glob("*/*/"), *root.glob("*/*/*/")):
                delete_stale_temporaries(folder)
        work = partial(shape.write, root, settings)
        done = ordered_map(work, chain(*jobs.values()), processes)
        for number, new in enumerate(done, start=1):
            written += new
            if progress is not None:
                progress(number, total)
        # the lists of all people, such as the pairs files
        shape.finish(root, settings, jobs)
        write_finished_marker(root, settings, layout, before | counts)
    return WorldReport(root, written, total - written)
