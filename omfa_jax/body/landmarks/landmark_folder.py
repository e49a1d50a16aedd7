"""Find the landmarks of the photos of a folder: processes, resumable, with a list of failures."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from omfa_jax.body.landmarks.landmark_json import make_document
from omfa_jax.body.landmarks.person_landmarks import find_people, find_person
from omfa_jax.core.atomic_files import atomic_write, delete_stale_temporaries, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.file_states import FileStates
from omfa_jax.core.images import read_rgb
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.process_pool import ordered_map

REPORT_FILE = "keypoints_report.json"
# numpy's libraries of linear algebra start a thread per core in each process
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class LandmarkJob:
    """A photo, its name without suffix, and the file that its keypoints have or get."""

    name: str
    photo: AnyPath
    target: AnyPath


@dataclass(frozen=True)
class LandmarkFolderReport:
    """The result of `write_landmarks`.

    `failed` has (name, reason); `several` the names of photos with more than one person.
    """

    written: int
    kept: int
    failed: tuple[tuple[str, str], ...]
    several: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        """Return a line of counts and a line per failed photo."""
        head = f"{self.written} written, {self.kept} kept, {len(self.failed)} failed"
        lines = [f"{head} ({self.seconds:.1f} s)"]
        if self.several:
            shown = ", ".join(self.several[:3]) + (", ..." if len(self.several) > 3 else "")
            lines.append(f"  {len(self.several)} photos with several people ({shown})")
        return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in self.failed)])


def write_landmarks(
    folder: str | os.PathLike,
    jobs: Sequence[LandmarkJob],
    *,
    processes: int = 1,
    overwrite: bool = False,
) -> LandmarkFolderReport:
    """Write the keypoints file of every photo with a person, and FOLDER/keypoints_report.json.

    Photos that have a keypoints file are kept, whichever tool wrote it; `overwrite` replaces it,
    unless nobody is found.
    Files are written atomically, so a call that was stopped can be repeated; photos that failed are
    tried again. Raises OmfaError if nothing can be written or another process is at work there.
    """
    started = time.perf_counter()
    folder = to_path(folder)
    for place in {job.target.parent for job in jobs}:
        require_any_writable_dir(place, "--raw")
    with exclusive_lock(folder):
        for place in {folder, *(job.target.parent for job in jobs)}:
            delete_stale_temporaries(place)
        states = FileStates()
        due = [job for job in jobs if overwrite or states.find(job.target) is None]
        failed: dict[str, str] = {}
        several = []
        kept = len(jobs) - len(due)
        with (
            _use_one_thread(processes),
            tqdm(total=len(jobs), initial=kept, unit="photo", desc="keypoints") as bar,
        ):
            for job, (count, reason) in zip(due, ordered_map(_write, due, processes), strict=True):
                if reason:
                    failed[job.name] = reason
                elif count > 1:
                    several.append(job.name)
                bar.update()
        written = len(due) - len(failed)
        report = {"written": written, "kept": kept, "failed": failed, "several_people": several}
        with atomic_write(folder / REPORT_FILE) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    seconds = time.perf_counter() - started
    return LandmarkFolderReport(written, kept, tuple(failed.items()), tuple(several), seconds)


def _write(job: LandmarkJob) -> tuple[int, str]:
    """Return (number of people, ""), or (0, why nothing was written)."""
    try:
        photo = read_rgb(job.photo, "photo")
        people = find_people(photo)
        if not people:
            # raises the error that says what was expected and found
            find_person(photo, job.photo.name)
        size_px = (photo.shape[1], photo.shape[0])
        text = json.dumps(make_document(people, job.photo.name, size_px))
        with atomic_write(job.target) as temporary:
            temporary.write_text(text + "\n")
        return len(people), ""
    except OmfaError as error:
        reason = str(error)
    except Exception as error:  # one odd file must not stop a folder of thousands
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if job.target.exists():
        reason = f"{reason} (its existing keypoints are kept)"
    return 0, reason


@contextlib.contextmanager
def _use_one_thread(processes: int) -> Iterator[None]:
    """Give each worker process one thread; the variables count when a process starts."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    if processes > 1:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
