"""Rendering of a folder of body files to pose maps: resumable, in several processes."""

import collections
import contextlib
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from omfa_jax.body import render_backends
from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.pose_styles import STYLES
from omfa_jax.body.render_body import render
from omfa_jax.body.smplx_forward import forward
from omfa_jax.core.atomic_files import (
    atomic_write,
    delete_stale_temporaries,
    exclusive_lock,
)
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.file_states import FileStates, list_folders
from omfa_jax.core.images import write_image
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_dir, require_any_writable_dir
from omfa_jax.core.paths import AnyPath, RemotePath, to_path
from omfa_jax.core.process_pool import exit_with_parent

# a body file, and the pose map to write
RenderJob = tuple[AnyPath, AnyPath]

SETTINGS_FILE = "pose_maps.json"
_FILES_PER_PROCESS = 32
_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")


@dataclass(frozen=True)
class RenderReport:
    """The result of `render_folder`; `failed` has (file name, reason) pairs, sorted by name."""

    rendered: int
    skipped: int
    failed: tuple[tuple[str, str], ...]
    backend: str
    seconds: float

    def __str__(self) -> str:
        """Return a line of counts and a line per failure."""
        counts = f"{self.rendered} rendered, {self.skipped} up to date, {len(self.failed)} failed"
        head = f"{counts} ({self.backend}, {self.seconds:.1f} s)"
        return "\n".join([head, *(f"  {name}: {reason}" for name, reason in self.failed)])


@dataclass(frozen=True)
class _Settings:
    model_path: str | None
    style: str
    backend: str
    size_px: tuple[int, int] | None


def render_folder(
    smplx_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    model_path: str | os.PathLike | None = None,
    style: str = "normals",
    backend: str = "auto",
    size_px: tuple[int, int] | None = None,
    processes: int | None = None,
    overwrite: bool = False,
) -> RenderReport:
    """Render every *.npz body file of `smplx_dir` to a PNG of the same stem in `out_dir`.

    `size_px` is (width, height), letterboxed; None keeps the size of each photo. Maps newer than
    their body file are kept, so that a stopped run can be resumed; `overwrite` first deletes all
    maps in `out_dir` that this function wrote. A failure is reported and does not stop the others.
    At most `processes` are used (None: one per core), fewer for a small folder. Raises OmfaError,
    before anything is written, if the folder has no body file, the model cannot be read, `out_dir`
    has maps of another style, size or model, or another process is writing to it.
    """
    start = time.perf_counter()
    bodies = find_body_files(smplx_dir)
    check_render_settings(style, backend, processes)
    settings = _Settings(
        model_path=None if model_path is None else str(model_path),
        style=style,
        backend=render_backends.resolve_backend(backend),
        size_px=size_px,
    )
    # only to raise now if the file cannot be read: each process loads its own
    load_body_model(model_path)
    target = require_any_writable_dir(out_dir, "--out")
    jobs = [(body, target / f"{body.stem}.png") for body in bodies]
    with exclusive_lock(target):
        delete_stale_temporaries(target)
        _claim(target, settings, overwrite=overwrite)
        due = _list_due(jobs)
        failed, done = {}, len(jobs) - len(due)
        with tqdm(total=len(jobs), initial=done, unit="map", desc="pose maps") as bar:
            for name, reason in _render_all(due, settings, _process_count(processes, len(due))):
                if reason is not None:
                    failed[name] = reason
                bar.update()
    return RenderReport(
        rendered=len(due) - len(failed),
        skipped=len(jobs) - len(due),
        failed=tuple(sorted(failed.items())),
        backend=settings.backend,
        seconds=time.perf_counter() - start,
    )


def check_render_settings(style: str, backend: str, processes: int | None) -> None:
    """Raise an OmfaError for an unknown style or backend or an invalid number of processes."""
    if style not in STYLES:
        raise make_unknown_name_error("pose map style", style, STYLES)
    if processes is not None and processes < 1:
        raise OmfaError(f"--processes: expected 1 or more, got {processes}")
    render_backends.resolve_backend(backend)


def find_body_files(smplx_dir: str | os.PathLike) -> list[AnyPath]:
    """Return the body files of a folder, sorted by name; OmfaError if there are none."""
    source = require_any_dir(smplx_dir, "folder of body files", "--raw")
    # hidden files are partial writes of a killed process, or macOS's "._name" files
    bodies = sorted(path for path in source.glob("*.npz") if not path.name.startswith("."))
    if not bodies:
        raise OmfaError(f"no *.npz body file in {source}; change --raw")
    return bodies


def find_styles(raw_dir: str | os.PathLike) -> list[str]:
    """Return the styles of the pose maps in a raw data set; those of other tools have none."""
    notes = (folder / SETTINGS_FILE for folder in find_folders("pose", to_path(raw_dir)))
    return sorted({_read_note(note)["style"] for note in notes if note.is_file()})


def find_folders(name: str, root: AnyPath) -> list[AnyPath]:
    """Return the folders called `name` in a raw data set, up to two levels below its root.

    Symbolic links are followed; each folder is returned once.
    """
    if isinstance(root, RemotePath):
        first = list_folders(root)
        second = [inner for folder in first for inner in list_folders(folder)]
        third = [folder / name for folder in second if (folder / name).is_dir()]
        return sorted([*(f for f in (*first, *second) if f.name == name), *third])
    found = [path for deep in ("", "*/", "*/*/") for path in root.glob(f"{deep}{name}")]
    return sorted({path.resolve(): path for path in reversed(found) if path.is_dir()}.values())


def _claim(target: AnyPath, settings: _Settings, *, overwrite: bool) -> None:
    """Record the maps' settings in `target`; OmfaError if it has maps with other settings.

    With `overwrite` its maps are deleted, unless another tool wrote them.
    """
    note = target / SETTINGS_FILE
    # without its folder: a model file that has been moved is the same one
    model = Path(settings.model_path).name if settings.model_path else "the free body"
    size = "x".join(map(str, settings.size_px)) if settings.size_px else "as the photo"
    wanted = {"style": settings.style, "size_px": size, "body_model": model}
    if overwrite and note.exists():
        # the note last: a run that is stopped here finds its maps by it again
        for image in target.glob("*.png"):
            image.unlink()
        note.unlink()
    if note.exists():
        found = _read_note(note)
        if found != wanted:
            came = f"has maps of {found}, requested are {wanted}"
            raise OmfaError(f"{target} {came}; --overwrite renders all of it again")
        return
    others = sorted(target.glob("*.png"))
    if others:
        raise OmfaError(
            f"{target} has images of another tool ({others[0].name}, no {SETTINGS_FILE}), which"
            " would be overwritten; move it away"
        )
    with atomic_write(note) as temporary:
        temporary.write_text(json.dumps(wanted) + "\n")


def _read_note(note: AnyPath) -> dict[str, str]:
    try:
        found = parse_json(note.read_text())
        return {name: found[name] for name in ("style", "size_px", "body_model")}
    except (ValueError, KeyError, TypeError):
        raise OmfaError(
            f"{note}: damaged; `omfa data poses --overwrite` renders all of {note.parent} again"
        ) from None


def _list_due(jobs: Sequence[RenderJob]) -> list[RenderJob]:
    """Return the jobs whose map is missing or older than its body file."""
    states = FileStates()
    return [(body, image) for body, image in jobs if not _is_fresh(image, body, states)]


def _is_fresh(image: AnyPath, body: AnyPath, states: FileStates) -> bool:
    drawn, posed = states.find(image), states.find(body)
    return drawn is not None and (posed is None or drawn.changed_s >= posed.changed_s)


def _process_count(processes: int | None, files: int) -> int:
    # a process takes seconds to start, a map a fraction of one
    useful = -(-files // _FILES_PER_PROCESS)
    return max(1, min(processes or os.cpu_count() or 1, useful))


def _render_all(
    jobs: Sequence[RenderJob], settings: _Settings, processes: int
) -> Iterator[tuple[str, str | None]]:
    """Yield (file name, None or the reason of the failure) as maps are finished."""
    if processes == 1:
        for body, image in jobs:
            yield body.name, _render_file(body, image, settings)
        return
    left = collections.deque(jobs)
    with _limit_threads():
        while left:
            suspects = yield from _run_pool(left, settings, processes)
            # one of the running maps killed its process and with it the pool: retry each alone
            for job in suspects:
                if (yield from _run_pool(collections.deque([job]), settings, 1)):
                    yield job[0].name, "its renderer's process died; try --backend zbuffer"


def _run_pool(
    left: collections.deque[RenderJob], settings: _Settings, processes: int
) -> Generator[tuple[str, str | None], None, list[RenderJob]]:
    """Run jobs from `left` and yield results; return those running when a process died."""
    # spawn: a forked child would inherit an OpenGL context that it cannot use
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, exit_with_parent) as pool:
        running: dict[Future, RenderJob] = {}
        while left or running:
            # few at a time, to bound memory and the number of suspects after a crash
            while left and len(running) < 4 * processes:
                job = left.popleft()
                running[pool.submit(_render_file, *job, settings)] = job
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    return list(running.values())
                yield running.pop(future)[0].name, future.result()
    return []


@contextlib.contextmanager
def _limit_threads() -> Iterator[None]:
    """Make child processes use one thread for BLAS and llvmpipe, since they share the cores."""
    added = [name for name in _THREAD_COUNTS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _render_file(body: AnyPath, image: AnyPath, settings: _Settings) -> str | None:
    """Write one pose map; return None, or the reason of the failure in one line."""
    try:
        params, camera = load_body(body)
        if settings.size_px is not None:
            camera = camera.resize(*settings.size_px)
        model = _model(settings.model_path)
        vertices, _ = forward(model, params)
        picture = render(
            vertices,
            model.faces,
            camera,
            settings.style,
            backend=settings.backend,
            body=model,
        )
        if not picture.any():
            raise OmfaError("the body is outside the image; check the file's camera")
        write_image(image, picture)
    except OmfaError as error:
        return str(error)
    except Exception as error:  # one bad file must not stop a folder of thousands
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


# loaded once per process: reading a licensed model takes longer than many maps
@functools.lru_cache(maxsize=1)
def _model(path: str | None) -> BodyModel:
    return load_body_model(path)
