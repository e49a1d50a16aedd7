"""Run the jobs of the page: one model in memory, one job at a time, with previews on the way."""

import logging
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from omfa_jax.app.example_photos import list_examples
from omfa_jax.app.job_form import (
    JobForm,
    check_form,
    find_pose,
    find_row,
    lay_out_photos,
    list_tasks,
    make_request,
    name_photos,
    write_commands,
)
from omfa_jax.app.settings import AppLimits
from omfa_jax.body.pose_library import load_pose_library
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import from_signed, resize, write_image
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.model_loading import TINY, TINY_FOLDER, find_model_folder, load_model
from omfa_jax.sampling.prepared_tasks import PreparedTask, Results, prepare_task
from omfa_jax.sampling.preview_sampler import PreviewSampler

log = logging.getLogger(__name__)

Image = UInt8[np.ndarray, "_ _ 3"]
JOB_THREAD = "omfa_app_job"
CLOSED = "the page has been stopped"
# how much of the body map shows over the photo
MAP_SHARE = 0.6
# a map's resized edges ring: darker pixels are its background
MIN_LEVEL = 40


@dataclass(frozen=True, eq=False)
class JobUpdate:
    """Where a job is: the share that is done (0 to 1), in words, and the newest preview."""

    share: float
    message: str
    preview: Image | None = None


@dataclass(frozen=True, eq=False)
class JobResult:
    """What a job made: labelled pictures, the body over the photo, and the files to take away.

    `commands` makes the same pictures in the unpacked `archive` (.zip); `notes` are the library's
    warnings.
    """

    pictures: list[tuple[Image, str]]
    overlay: Image | None
    commands: str
    archive: Path
    notes: list[str]
    seconds: float


class Cancelled(Exception):
    """The visitor has left, or the page is being stopped."""


@dataclass
class _Run:
    """One job under way; `is_closing` is that of all jobs."""

    is_closing: threading.Event
    updates: queue.Queue = field(default_factory=queue.Queue)
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    def say(self, update: JobUpdate) -> None:
        if self.is_cancelled.is_set() or self.is_closing.is_set():
            raise Cancelled
        self.updates.put(update)


class JobRunner:
    """Runs forms with the model at `checkpoint`; files are kept below `folder`.

    Jobs of several threads wait for each other. Raises OmfaError as `load_model` does.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        folder: Path,
        limits: AppLimits | None = None,
        dtype: str = "auto",
    ):
        shipped = find_model_folder(checkpoint).resolve() == TINY_FOLDER.resolve()
        # where the model lies on the server is no help to a visitor, and none of their business
        self.shown_checkpoint = TINY if shipped else None
        self.limits = limits or AppLimits()
        self._folder = folder
        self.model = load_model(checkpoint)
        self.tasks = self.model.settings.tasks
        self.poses = list(load_pose_library())
        self._sampler = PreviewSampler(self.model, SamplerSettings(), dtype=dtype)
        self._lock = threading.Lock()
        self._is_closing = threading.Event()

    def run(self, form: JobForm) -> Iterator[JobUpdate | JobResult]:
        """Yield updates and at last the result of a form; OmfaError for what cannot be done.

        A generator that is closed early ends its job at the next preview.
        """
        check_form(form, self.tasks, self.poses, self.limits)
        self.remove_old_files()
        job = _Run(self._is_closing)
        thread = threading.Thread(target=self._work, args=(form, job), daemon=True, name=JOB_THREAD)
        thread.start()
        try:
            while True:
                update = job.updates.get()
                if isinstance(update, Exception):
                    raise update
                yield update
                if isinstance(update, JobResult):
                    return
        finally:
            job.is_cancelled.set()
            thread.join()

    def warm_up(self) -> None:
        """Compile try-on with an example, while the first visitor chooses photos."""
        if "try_on" not in list_tasks(self.tasks):
            return
        person, garment = (str(list_examples(kind)[0]) for kind in ("image", "cloth"))
        try:
            for _ in self.run(JobForm("try_on", person, garment, steps=2)):
                pass
        except OmfaError as error:
            if not self._is_closing.is_set():
                log.warning("try-on is not compiled before its first use: %s", error)
            return
        log.info("try-on is compiled; other tasks are at their first use")

    def close(self, seconds: float) -> None:
        """End all jobs at their next preview, and wait for that; one that compiles may take longer.

        What `is_a_job_running` says afterwards is what has not ended.
        """
        self._is_closing.set()
        until = time.monotonic() + seconds
        for thread in _list_job_threads():
            thread.join(max(until - time.monotonic(), 0))

    def remove_old_files(self) -> None:
        """Remove the files of jobs that ended long ago (`AppLimits.keep_s`)."""
        for path in self._folder.glob("job_*"):
            if time.time() - path.stat().st_mtime > self.limits.keep_s:
                shutil.rmtree(path, ignore_errors=True)

    def _work(self, form: JobForm, job: _Run) -> None:
        with self._lock:
            if self._is_closing.is_set():
                job.updates.put(OmfaError(CLOSED))
                return
            folder = Path(tempfile.mkdtemp(prefix="job_", dir=self._folder))
            try:
                with collect_warnings() as notes:
                    result = self._make(form, job, folder / "omfa_job", notes)
                job.updates.put(result)
            except Cancelled:
                closing = self._is_closing.is_set()
                log.info("%s: a job is ended", CLOSED if closing else "a visitor has left")
                shutil.rmtree(folder, ignore_errors=True)
                # a visitor who is still there waits for it
                job.updates.put(OmfaError(CLOSED))
            except Exception as error:
                shutil.rmtree(folder, ignore_errors=True)
                job.updates.put(error)

    def _make(self, form: JobForm, job: _Run, folder: Path, notes: list[str]) -> JobResult:
        start = time.monotonic()
        settings = self.model.settings
        job.say(JobUpdate(0, "reading the photos"))
        folder.mkdir()
        placed = lay_out_photos(form, folder, self.tasks)
        pose = find_pose(form, placed)
        row = find_row(form, self.tasks)
        job.say(JobUpdate(0, "finding the people in the photos"))
        try:
            prepared = prepare_task(form.task, row, settings, make_request(form, placed, pose))
        except OmfaError as error:
            raise OmfaError(name_photos(str(error), placed, folder)) from None
        notes[:] = [name_photos(note, placed, folder) for note in notes]
        self._sampler.change_settings(form.sampler)
        pictures: list[tuple[Image, str]] = []
        for place, seed in enumerate(form.seeds):
            self._sampler.on_preview = self._make_reporter(form, job, prepared, place)
            job.say(JobUpdate(place / len(form.seeds), "denoising (the first time it compiles)"))
            try:
                results = prepared.generate(self._sampler, seed)
            finally:
                # the reporter holds the job's photos
                self._sampler.on_preview = None
            pictures += place_results(prepared, results, seed)
        commands = write_commands(form, folder, placed, pose, self.shown_checkpoint)
        for index, (picture, _) in enumerate(pictures):
            write_image(folder / "results" / f"result_{index:02d}.png", picture)
        (folder / "command.txt").write_text(commands + "\n")
        archive = Path(shutil.make_archive(str(folder), "zip", folder))
        overlay = draw_overlay(prepared)
        shutil.rmtree(folder)
        seconds = time.monotonic() - start
        return JobResult(pictures, overlay, commands, archive, notes, seconds)

    def _make_reporter(
        self, form: JobForm, job: _Run, prepared: PreparedTask, place: int
    ) -> Callable[[int, int, Results], None]:
        calls = {"number": 0, "last": 0}

        def report(done: int, steps: int, images: Results) -> None:
            # transfer and turntable call the sampler several times
            calls["number"] += done <= calls["last"]
            calls["last"] = done
            share = (place + (calls["number"] + done / steps) / prepared.calls) / len(form.seeds)
            preview = next(iter(images.values()))[0]
            job.say(JobUpdate(min(share, 1.0), f"step {done} of {steps}", preview))

        return report


def _list_job_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == JOB_THREAD]


def is_a_job_running() -> bool:
    """Return whether any job of this process is under way, perhaps inside XLA."""
    return bool(_list_job_threads())


class collect_warnings(logging.Handler):
    """A context that yields the list of this package's warnings of the thread that enters it."""

    def __enter__(self) -> list[str]:
        self._thread, self._lines = threading.get_ident(), []
        logging.getLogger("omfa_jax").addHandler(self)
        return self._lines

    def __exit__(self, *_: object) -> None:
        logging.getLogger("omfa_jax").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of the thread."""
        if record.levelno >= logging.WARNING and record.thread == self._thread:
            self._lines.append(record.getMessage())


def place_results(prepared: PreparedTask, results: Results, seed: int) -> list[tuple[Image, str]]:
    """Return labelled pictures; people are in their photo's frame, as `omfa sample` writes them."""
    pictures = []
    for name, images in results.items():
        person = prepared.people.get(name)
        placed = images if person is None else person.restore(images)
        many = len(placed) > 1
        for index, image in enumerate(placed):
            number = f" {index + 1}" if many else ""
            pictures.append((image, f"{name.replace('_', ' ')}{number}, seed {seed}"))
    return pictures


def draw_overlay(prepared: PreparedTask) -> Image | None:
    """Return the first body over the person's photo where it lies in it, else the body alone."""
    person = next(iter(prepared.people.values()), None)
    drawn = prepared.columns.get("pose") if person is None else person.pose
    if drawn is None:
        return None
    body = from_signed(drawn[0])
    under = prepared.columns.get("person")
    if person is not None and person.photo is not None and person.frame is not None:
        if person.frame.photo_px != person.photo.shape[:2]:
            # the pose has a frame of its own
            return body
        under = person.frame.fit(person.photo, 255)
    if under is None:
        return body
    shown = from_signed(under[0])
    if body.shape != shown.shape:
        body = resize(body, *shown.shape[:2])
    blended = ((1 - MAP_SHARE) * shown + MAP_SHARE * body).astype(np.uint8)
    return np.where(body.max(-1, keepdims=True) > MIN_LEVEL, blended, shown)
