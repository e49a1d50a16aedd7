"""Resumable sampling of a complete split; each image depends on its example only.

The arithmetic for an example does not change with the batch size, the devices, the hosts or a
restart: its noise is its own (`diffusion.noise`), a device always works on ROWS_PER_GROUP examples,
and example i is always row i mod ROWS_PER_GROUP of its group of consecutive examples. Groups are
therefore the unit that is distributed and, after a restart, repeated; existing images are not
written again.
"""

import collections
import fnmatch
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from omfa_jax.core import trees
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import FORMAT_SUFFIXES
from omfa_jax.core.images import from_signed, to_signed, unletterbox, write_image
from omfa_jax.core.name_lists import read_name_list
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.decode_record import Example, stack_examples
from omfa_jax.diffusion.noise import make_example_ids
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.weights.omfa_model import Model

# examples that a device computes at once; fixed, because XLA sums differently at other sizes
ROWS_PER_GROUP = 4
RUN_FILE = "run.json"
# besides hidden files, what a folder may hold before it is claimed: the hosts' markers, a loss
ALLOWED_BEFORE = ("joining", "loss.json")
IMAGES = (*COMPONENTS, "pose")
# what an evaluation writes: image folders and files; --restart deletes nothing else
PAIRS_FILE = "pairs.txt"
FOLDERS = ("pred", "gt", "garments", "other_*", "truth_*")
FILES = (RUN_FILE, PAIRS_FILE, "scores.json", "loss.json", "other_*.json")


@dataclass(frozen=True)
class SamplingJob:
    """What to sample, and where to: `folder`/NAME.png, at the size that `get_size_px` returns.

    `generated` is the component that `task` generates; `get_inputs(place)` returns the uint8 images
    of an example at the slot sizes, and has_pose. The noise depends on the seed and on `names`.
    `other_components` are of the same task and examples, written from the same samples.
    """

    folder: Path
    task: str
    generated: str
    names: Sequence[str]
    get_inputs: Callable[[int], Example]
    get_size_px: Callable[[int], tuple[int, int]] | None = None
    other_components: tuple["SamplingJob", ...] = ()

    def get_path(self, place: int) -> Path:
        """Return the path of an example's image."""
        return self.folder / f"{self.names[place]}.png"


def sample_to_folder(
    sampler: Sampler,
    work: SamplingJob,
    *,
    seed: int,
    batch_size: int = 0,
    process: int = 0,
    processes: int = 1,
    params: Any = None,
) -> int:
    """Write the missing images of this process's share; return how many were written.

    Each device of the sampler gets one group at a time. `batch_size` examples are in flight at once
    (0: two rounds of all devices); it changes the memory used and not the images. Images are
    written atomically.
    """
    count, size = len(work.names), sampler.devices
    works = (work, *work.other_components)
    # dealt round-robin, so that hosts finish together even when a restart has left gaps
    groups = range(process, -(-count // ROWS_PER_GROUP), processes)
    missing = [
        g
        for g in groups
        if any(not w.get_path(p).exists() for p in get_group_indices(g, count) for w in works)
    ]
    rounds = [missing[i : i + size] for i in range(0, len(missing), size)]
    ahead = max(1, batch_size // (ROWS_PER_GROUP * size)) if batch_size else 2
    flying: collections.deque[tuple[list[int], Any]] = collections.deque()
    wrote = 0
    threads = min(8, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=sum(len(get_group_indices(g, count)) for g in missing),
            desc=work.folder.name,
            unit="image",
            disable=None,
        ) as bar,
    ):

        def write_next() -> int:
            rows, output = flying.popleft()
            # rows that pad the last group come last
            written = 0
            for w in works:
                images = from_signed(np.asarray(output[w.generated]))[: len(rows)]
                jobs = zip(rows, images, strict=True)
                written += sum(pool.map(lambda job, w=w: _write(w, *job), jobs))
            bar.update(len(rows))
            return written

        for chosen in rounds:
            # padding with the last group keeps the program the same on all devices
            filled = [*chosen, *[chosen[-1]] * (size - len(chosen))]
            rows = [
                min(g * ROWS_PER_GROUP + row, count - 1)
                for g in filled
                for row in range(ROWS_PER_GROUP)
            ]
            batch = stack_examples(pool.map(work.get_inputs, rows), len(rows))
            # returns before the devices are done: the next group is read meanwhile
            output = sampler.dispatch(
                work.task,
                {name: to_signed(batch[name]) for name in COMPONENTS},
                to_signed(batch["pose"]),
                seed=seed,
                has_pose=batch["has_pose"],
                params=params,
                ids=make_example_ids(work.names[place] for place in rows),
            )
            if chosen is rounds[0]:
                # the time left does not count the compilation
                bar.unpause()
            flying.append(([p for g in chosen for p in get_group_indices(g, count)], output))
            if len(flying) >= ahead:
                wrote += write_next()
        while flying:
            wrote += write_next()
    return wrote


def get_busy_devices(count: int) -> list[Any]:
    """Return this process's devices, at most as many as `count` examples have groups."""
    groups = -(-count // (ROWS_PER_GROUP * jax.process_count()))
    return jax.local_devices()[: max(1, groups)]


def get_process_share(count: int, process: int, processes: int) -> list[int]:
    """Return the indices of the examples that a process samples."""
    groups = range(process, -(-count // ROWS_PER_GROUP), processes)
    return [place for group in groups for place in get_group_indices(group, count)]


def get_group_indices(group: int, count: int) -> range:
    """Return the indices of a group's examples."""
    return range(group * ROWS_PER_GROUP, min((group + 1) * ROWS_PER_GROUP, count))


def _write(work: SamplingJob, place: int, image: np.ndarray) -> int:
    path = work.get_path(place)
    # a group is sampled as a unit, though only some of its images may be missing
    if path.exists():
        return 0
    if work.get_size_px is not None:
        image = unletterbox(image, *work.get_size_px(place))
    write_image(path, image)
    return 1


def claim_folder(folder: Path, facts: Mapping[str, Any], *, restart: bool) -> None:
    """Claim `folder` for the run that `facts` describe, or resume that run.

    For the folder of another run, raise an OmfaError that names what differs, or with `restart`
    delete that run's images and scores. Images without a RUN_FILE are never touched.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        found = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        if any(not name.startswith(".") and name not in ALLOWED_BEFORE for name in found):
            raise OmfaError(
                f"{folder} has files but no {RUN_FILE}, so no evaluation wrote it; give another"
                " folder to --out"
            )
    else:
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = {"run.json": "damaged"}
        # through JSON, so that tuples compare equal to the lists that were read
        asked = json.loads(json.dumps(dict(facts)))
        names = sorted({*before, *asked})
        changed = [name for name in names if before.get(name) != asked.get(name)]
        if changed and not restart:
            differences = "; ".join(
                f"{n}: was {before.get(n)}, now {asked.get(n)}" for n in changed
            )
            raise OmfaError(
                f"{folder} holds images of another run ({differences}); give another folder to"
                " --out, or --restart to delete them and start over"
            )
        if restart:
            _clear(folder)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(dict(facts), indent=1) + "\n")


def _clear(folder: Path) -> None:
    """Delete what the run wrote: its scores, and the images that its pairs.txt names.

    Links are not followed. Any other file among the images would be mistaken for one of the new
    run, so it raises an OmfaError and nothing is deleted.
    """
    names: set[str] = set()
    pairs = folder / PAIRS_FILE
    if pairs.is_file():
        words = [word for line in read_name_list(pairs) for word in line.fields]
        names = {word.removesuffix(".png") for word in words if word.endswith(".png")}
    written, foreign = [], []
    for place in _list_matching(folder, FOLDERS):
        if place.is_symlink():
            foreign.append(place)
        elif place.is_dir():
            for path in place.glob("[!.]*"):
                real = path.is_file() and not path.is_symlink()
                own = real and path.stem in names and path.suffix in FORMAT_SUFFIXES.values()
                (written if own else foreign).append(path)
    if foreign:
        some = ", ".join(str(path.relative_to(folder)) for path in sorted(foreign)[:5])
        raise OmfaError(
            f"{folder} holds files that the other run did not write ({some}): move them away, or"
            " give another folder to --out"
        )
    files = [
        path for path in _list_matching(folder, FILES) if path.is_file() and not path.is_symlink()
    ]
    for path in written + files:
        path.unlink()


def _list_matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix != ".cache"]
    return [p for p in found if any(fnmatch.fnmatchcase(p.name, pattern) for pattern in patterns)]


def compute_weights_digest(model: Model) -> str:
    """Return the SHA-256 of a model's UNet, VAE, prompts and settings."""
    digest = hashlib.sha256(json.dumps(model.settings.to_json(), sort_keys=True).encode())
    tree = {"unet": model.unet_params, "vae": model.vae_params, "prompts": dict(model.prompts)}
    for path, leaf in _leaves(tree):
        digest.update("/".join(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    # tree order: arrays that are still on disk are then read sequentially
    return iter(trees.flatten(tree))
