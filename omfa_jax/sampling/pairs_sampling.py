"""`omfa sample --pairs`: thousands of pictures from a list of people and garments.

The pictures are those of `grouped_sampling`: the same bytes for any batch size, number of devices
and processes, and after any number of restarts. That rests on a fixed number of rows per device.
Its cost is padding: the last group, and one in which inputs failed, take as long as a full one. A
batch size below it saves no device memory; `rows` does, and is one of the run's settings because
XLA rounds differently for another number (bench/sample_pairs.py measures both).
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from omfa_jax.body.render_backends import resolve_backend
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import READ_SUFFIXES
from omfa_jax.core.images import write_image
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.raw_files import list_files_by_stem
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.sampling.grouped_sampling import (
    ROWS_PER_GROUP,
    GroupedWork,
    SampledInputs,
    sample_groups,
)
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.pairs_folder import DONE, FAILED, PairsFolder
from omfa_jax.sampling.person_inputs import PersonInputs
from omfa_jax.sampling.photo_files import PersonFiles, find_files_beside, list_files
from omfa_jax.sampling.picture_notes import collect_notes, divert_logs
from omfa_jax.sampling.prepared_tasks import SampleRequest, read_row
from omfa_jax.sampling.sampler import Sampler

log = logging.getLogger(__name__)

# between lines of the log where there is no terminal for a progress bar
REPORT_S = 60.0


class PhotoFolder:
    """The images of a folder by the names that a list has for them, with suffix or without."""

    def __init__(self, folder: AnyPath, flag: str):
        self.folder, self.flag = folder, flag
        self.by_stem = {
            stem: path
            for stem, path in list_files_by_stem(folder).items()
            if path.suffix.lower() in READ_SUFFIXES
        }
        if not self.by_stem:
            raise OmfaError(f"{flag} {folder}: expected a folder of images, found none in it")

    def find(self, name: str) -> AnyPath:
        """Return the file of that name, or of that name with another suffix; else an OmfaError."""
        path = self.folder / name
        if path.is_file():
            return path
        found = self.by_stem.get(name) or self.by_stem.get(PurePath(name).stem)
        if found is None:
            raise OmfaError(f"{self.flag} {self.folder} has no {name}")
        return found

    def require_some(self, names: Sequence[str], path: AnyPath | None) -> None:
        """Raise an OmfaError if none of the names is here: it is the wrong folder or list."""
        for name in names:
            try:
                self.find(name)
            except OmfaError:
                continue
            return
        some = ", ".join(sorted(path.name for path in self.by_stem.values())[:3])
        raise OmfaError(
            f"{self.flag} {self.folder} has none of the {len(names)} images that {path} names"
            f" (such as {names[0]}); it has {some}: change {self.flag} or --pairs"
        )


@dataclass(frozen=True, eq=False)
class PairInputs:
    """Where the photos are, and how they are read; `garments` is None without a garment."""

    row: Task
    people: PhotoFolder
    garments: PhotoFolder | None
    smplx_model: str | None = None
    crop: bool = True
    null_pose: bool = False

    def require_pose_style(self, settings: DiffusionSettings, people: Sequence[str]) -> None:
        """Raise an OmfaError if the pose maps beside the first person are of another style."""
        for name in people:
            try:
                photo = self.people.find(name)
            except OmfaError:
                continue
            with collect_notes(), divert_logs():
                find_files_beside(PersonFiles(photo), settings.pose_style, null_pose=self.null_pose)
            return

    def load(
        self, slots: SlotFitter, person: str, garment: str
    ) -> tuple[SampledInputs, PersonInputs, dict[str, str]]:
        """Return a pair's inputs for `grouped_sampling`, the person, and the files that were read.

        Of a body that was fitted here, "body" says to what.
        Raises OmfaError if one is missing, damaged, or does not show a face where the task needs
        one.
        """
        files = PersonFiles(self.people.find(person))
        files = find_files_beside(files, slots.pose_style, null_pose=self.null_pose)
        shop = self.garments.find(garment) if self.garments else None
        request = SampleRequest(
            shop, files, smplx_model=self.smplx_model, crop=self.crop, null_pose=self.null_pose
        )
        given, me = read_row(self.row, slots, request, files)
        empty = np.zeros((*slots.sizes["person"], 3), np.float32)
        inputs = {name: image[0] for name, image in given.items()}
        inputs["pose"] = empty if me.pose is None else me.pose[0]
        inputs["has_pose"] = np.bool_(me.pose is not None)
        # of the person only the way back into the photo is kept until the picture is made
        pasted = "person" in self.row.noised and me.frame is not None and me.frame.crop is not None
        kept = PersonInputs(me.photo if pasted else None, None, None, None, me.frame)
        read = list_files(files) | ({"garment": str(shop)} if shop else {})
        if me.body is not None and me.body.fitted_to:
            read["body"] = f"fitted to the {me.body.fitted_to}"
        return inputs, kept, read


def sample_pairs(
    sampler: Sampler,
    folder: PairsFolder,
    inputs: PairInputs,
    places: Sequence[int],
    *,
    seed: int,
    rows: int = ROWS_PER_GROUP,
    batch_size: int = 0,
    native_size: bool = False,
) -> int:
    """Sample the pictures `places` of a claimed folder; return how many of them failed.

    Inputs that cannot be used are a line in the folder, and no error. The rate is logged.
    """
    slots = SlotFitter(sampler.model.settings)
    failed: list[int] = []
    progress = Progress(len(places), failed)

    def load(place: int) -> SampledInputs | None:
        picture = folder.pictures[place]
        try:
            with collect_notes() as notes:
                found, me, read = inputs.load(slots, picture.person, picture.garment)
        except MemoryError:
            raise
        # whatever is wrong with one photo must not end the run of thousands
        except Exception as error:
            kind = "" if isinstance(error, OmfaError) else f"{type(error).__name__}: "
            why = kind + " ".join(str(error).split())
            folder.append(place, FAILED, why=why)
            progress.count_failure(place, picture.name, why)
            return None
        return {**found, "kept": (me, read, notes)}

    def finish(place: int, found: SampledInputs, images: Mapping[str, np.ndarray]) -> int:
        me, read, notes = found["kept"]
        name = folder.pictures[place].name
        crop = me.frame.crop if me.frame is not None and not native_size else None
        placed = {}
        for component, image in images.items():
            in_photo = component == "person" and not native_size
            placed[component] = me.restore(image[None])[0] if in_photo else image
        said: dict[str, Any] = {
            "sizes_px": {name: [i.shape[1], i.shape[0]] for name, i in placed.items()},
            "inputs": read,
        }
        if "person" in placed and crop is not None:
            said["crop_px"] = list(crop)
        if notes:
            said["notes"] = notes
            progress.notes.append(f"{name}: {notes[0]}")
        progress.fitted += "body" in read
        folder.append(place, DONE, **said)
        for component, image in placed.items():
            write_image(folder.get_path(name, component), image)
        return place

    names = [picture.identity for picture in folder.pictures]
    work = GroupedWork(inputs.row.name, names, load, finish)
    if not inputs.null_pose:
        # chosen and said once, before threads draw bodies
        resolve_backend("auto")
    with divert_logs(), progress:
        for made in sample_groups(
            sampler, work, places, seed=seed, rows=rows, batch_size=batch_size
        ):
            progress.update(len(made))
    progress.report_end(sampler.devices)
    return len(failed)


class Progress:
    """A progress bar in pictures, or a line a minute without a terminal; and the rate at the end.

    The rate counts from the first finished round, because the sampler is compiled before it.
    """

    def __init__(self, total: int, failed: list[int], clock: Callable[[], float] = time.monotonic):
        self._total, self._failed, self._clock = total, failed, clock
        self._done, self._first, self._started = 0, 0, clock()
        self._from = self._told = self._last = self._started
        self._lock = threading.Lock()
        self.notes: list[str] = []
        self.fitted = 0

    def __enter__(self) -> "Progress":
        self._bar = tqdm(total=self._total, unit="picture", desc="compiling", disable=None)
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """Count the pictures of a finished round."""
        self._done += count
        self._last = self._clock()
        if not self._first:
            self._first, self._from = count, self._last
            self._bar.set_description("sampling")
            self._bar.unpause()
        self._bar.update(self._done + len(self._failed) - self._bar.n)
        if self._bar.disable and self._last - self._told > REPORT_S:
            self._told = self._last
            left = self._total - self._done - len(self._failed)
            log.info(
                "%d of %d pictures, %.2f pictures/s, %d failed, %d left",
                *(self._done, self._total, self.rate, len(self._failed), left),
            )

    def count_failure(self, place: int, name: str, why: str) -> None:
        """Count a failure, in any thread; the first is logged, as the rest may be of its kind."""
        with self._lock:
            self._failed.append(place)
            if len(self._failed) == 1:
                log.warning("%s failed, the first one: %s", name, why)

    @property
    def rate(self) -> float:
        """Pictures per second without the first round; with it if there is no other."""
        later = self._done - self._first
        seconds = self._last - (self._from if later else self._started)
        return (later or self._done) / max(seconds, 1e-9)

    def report_end(self, devices: int) -> None:
        """Log the number of pictures, the rate, and what was noted about pictures."""
        first = self._from - self._started
        what = "all of it" if self._done == self._first else "after the first round"
        log.info(
            "%d pictures, %.2f pictures/s on %d x %s (%s; compiling and the first round: %.1f s)",
            *(self._done, self.rate, devices, jax.local_devices()[0].device_kind, what, first),
        )
        if self.fitted:
            log.info(
                "%d of them had no body beside the photo: fitted here, as pairs.json says",
                self.fitted,
            )
        if self.notes:
            log.warning(
                "%d pictures have notes in pairs.json; the first: %s",
                *(len(self.notes), self.notes[0]),
            )
