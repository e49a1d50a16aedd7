"""Resumable sampling of a complete split; each image depends on its example only.

`sampling.grouped_sampling` has the rules: the arithmetic for an example does not change with the
batch size, the devices, the hosts or a restart. Existing images are not sampled again.
"""

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import FORMAT_SUFFIXES
from omfa_jax.core.images import unletterbox, write_image
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.name_lists import read_name_list
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.run_facts import describe_changes
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.decode_record import Example
from omfa_jax.sampling.grouped_sampling import (
    GroupedWork,
    SampledInputs,
    get_process_share,
    sample_groups,
)
from omfa_jax.sampling.sampler import Sampler

RUN_FILE = "run.json"
# besides hidden files, what a folder may hold before it is claimed: the hosts' markers, a loss
ALLOWED_BEFORE = ("joining", "loss.json")
IMAGES = (*COMPONENTS, "pose")
# what an evaluation writes: image folders and files; --overwrite deletes nothing else
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

    folder: AnyPath
    task: str
    generated: str
    names: Sequence[str]
    get_inputs: Callable[[int], Example]
    get_size_px: Callable[[int], tuple[int, int]] | None = None
    other_components: tuple["SamplingJob", ...] = ()

    def get_path(self, place: int) -> AnyPath:
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

    `batch_size` examples are in flight at once; it changes the memory used and not the images (see
    `sampling.grouped_sampling`). Images are written atomically.
    """
    works = (work, *work.other_components)
    share = get_process_share(len(work.names), process, processes)
    missing = [at for at in share if not all(w.get_path(at).exists() for w in works)]

    def write(place: int, _: SampledInputs, images: dict[str, np.ndarray]) -> int:
        return sum(_write(w, place, images[w.generated]) for w in works)

    grouped = GroupedWork(work.task, work.names, work.get_inputs, write)
    wrote = 0
    with tqdm(total=len(missing), desc=work.folder.name, unit="image", disable=None) as bar:
        for counts in sample_groups(
            sampler,
            grouped,
            missing,
            seed=seed,
            batch_size=batch_size,
            params=params,
            # the time left does not count the compilation
            on_compiled=bar.unpause,
        ):
            wrote += sum(counts)
            bar.update(len(counts))
    return wrote


def _write(work: SamplingJob, place: int, image: np.ndarray) -> int:
    path = work.get_path(place)
    # of a task with several components, only one may be missing
    if path.exists():
        return 0
    if work.get_size_px is not None:
        image = unletterbox(image, *work.get_size_px(place))
    write_image(path, image)
    return 1


def claim_folder(folder: AnyPath, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Claim `folder` for the run that `facts` describe, or resume that run.

    For the folder of another run, raise an OmfaError that names what differs, or with `overwrite`
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
            before = parse_json(path.read_text())
        except ValueError:
            before = {"run.json": "damaged"}
        changes = describe_changes(before, facts)
        if changes and not overwrite:
            raise OmfaError(
                f"{folder} holds images of another run ({changes}); give another folder to"
                " --out, or --overwrite to delete them and start over"
            )
        if overwrite:
            _clear(folder)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(dict(facts), indent=1) + "\n")


def _clear(folder: AnyPath) -> None:
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


def _list_matching(folder: AnyPath, patterns: Sequence[str]) -> list[AnyPath]:
    found = [path for path in folder.iterdir() if path.suffix != ".cache"]
    return [p for p in found if any(fnmatch.fnmatchcase(p.name, pattern) for pattern in patterns)]
