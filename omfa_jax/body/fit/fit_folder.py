"""Fit of a folder of photos from keypoints to body files: batched, resumable, with a report."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from omfa_jax.body.body_file import read_npz, save_body
from omfa_jax.body.fit.fitter import FitResult, Fitter
from omfa_jax.body.fit.photo_fitter import PhotoFitter
from omfa_jax.body.landmarks import PersonLandmarks
from omfa_jax.core.atomic_files import (
    atomic_write,
    delete_stale_temporaries,
    exclusive_lock,
)
from omfa_jax.core.errors import OmfaError, describe_damage
from omfa_jax.core.file_states import FileStates
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_writable_file
from omfa_jax.core.paths import AnyPath, to_path

log = logging.getLogger(__name__)

REPORT_FILE = "fit_report.json"
FIT_SOURCE = "keypoints"
_SAVE_SECONDS = 30.0

# what is known of a photo's person: rows (x px, y px, confidence) and the photo's size (w, h), or
# landmarks with depths and a mask
PhotoRows = tuple[Float[np.ndarray, "k 3"], tuple[int, int]]
# a name, and a function that reads it
PhotoEntry = tuple[str, Callable[[], PhotoRows | PersonLandmarks]]
# fits people of one kind
FitFn = Callable[[list], list[FitResult]]


@dataclass(frozen=True)
class FitFolderReport:
    """The result of `fit_folder`; `rejected` has (name, reason), including earlier runs."""

    fitted: int
    kept: int
    rejected: tuple[tuple[str, str], ...]
    seconds: float

    def __str__(self) -> str:
        """Return a line of counts and a line per rejected photo."""
        head = f"{self.fitted} fitted, {self.kept} kept, {len(self.rejected)} rejected"
        lines = (f"  {name}: {reason}" for name, reason in self.rejected)
        return "\n".join([f"{head} ({self.seconds:.1f} s)", *lines])


def fit_folder(
    fitter: Fitter,
    photos: Sequence[PhotoEntry],
    folder: str | os.PathLike,
    *,
    photo_fitter: PhotoFitter | None = None,
    batch_size: int = 16,
    overwrite: bool = False,
    person_index: int | None = None,
) -> FitFolderReport:
    """Write folder/smplx/NAME.npz for every photo whose fit is accepted, and fit_report.json.

    `fitter` fits rows, and `photo_fitter` the people that were read as `PersonLandmarks`.
    The report has one entry per photo: FitReport's fields, or the reason why the keypoints could
    not be read. Photos in the report are skipped and body files of other origin are kept;
    `overwrite` fits all photos again. `person_index` is noted in the report: photos that were
    fitted with another are kept with a warning. Raises OmfaError if the report is damaged, the
    folder is not writable, or another process is fitting it.
    """
    if batch_size < 1:
        raise OmfaError(f"--batch-size: expected 1 or more, got {batch_size}")
    folder = to_path(folder)
    require_any_writable_file(folder / "smplx" / "NAME.npz", "--raw")
    with exclusive_lock(folder):
        fit = partial(_fit_batch, fitter, photo_fitter, batch_size)
        return _fit_folder(fit, photos, folder, batch_size, overwrite, person_index)


def _fit_folder(
    fit: FitFn,
    photos: Sequence[PhotoEntry],
    folder: AnyPath,
    batch_size: int,
    overwrite: bool,
    person_index: int | None,
) -> FitFolderReport:
    started = time.perf_counter()
    bodies = folder / "smplx"
    for place in (folder, bodies):
        delete_stale_temporaries(place)
    if overwrite:
        # after a kill, new bodies must not be paired with the report on the old ones
        (folder / REPORT_FILE).unlink(missing_ok=True)
    entries = _read_report(folder / REPORT_FILE)
    states = FileStates()
    due = [p for p in photos if overwrite or not _is_done(p[0], bodies, entries, states)]
    _warn_of_other_people({name for name, _ in photos} - {n for n, _ in due}, entries, person_index)
    fitted, saved = 0, time.perf_counter()
    with tqdm(total=len(photos), initial=len(photos) - len(due), unit="photo", desc="fit") as bar:
        for name, result in _fit_all(fit, due, batch_size):
            path = bodies / f"{name}.npz"
            if isinstance(result, str):
                entries[name] = {"accepted": False, "reason": result}
            else:
                entries[name] = result.report.as_dict()
            if person_index is not None:
                entries[name]["person_index"] = person_index
            if isinstance(result, FitResult) and result.report.accepted:
                save_body(path, result.params, result.camera, source=FIT_SOURCE)
                fitted += 1
            elif states.find(path) is not None:
                _delete_fitted(path)
            bar.update()
            # the report grows with the folder: rewriting it for every photo would be quadratic
            if time.perf_counter() - saved > _SAVE_SECONDS:
                _write_report(folder / REPORT_FILE, entries)
                saved = time.perf_counter()
    _write_report(folder / REPORT_FILE, entries)
    names = sorted(name for name, _ in photos)
    rejected = [(n, entries[n]["reason"]) for n in names if not _is_accepted(entries.get(n))]
    return FitFolderReport(
        fitted=fitted,
        kept=len(photos) - fitted - len(rejected),
        rejected=tuple(rejected),
        seconds=time.perf_counter() - started,
    )


def _fit_all(
    fit: FitFn, photos: Sequence[PhotoEntry], batch_size: int
) -> Iterator[tuple[str, FitResult | str]]:
    """Yield (name, fit or the reason why there is none) in the order of `photos`."""
    for first in range(0, len(photos), batch_size):
        found: dict[str, PhotoRows | PersonLandmarks] = {}
        done: dict[str, FitResult | str] = {}
        for name, read in photos[first : first + batch_size]:
            try:
                found[name] = read()
            except OmfaError as error:
                done[name] = str(error)
            except Exception as error:  # one odd file must not stop a folder of thousands
                done[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        for kind in (tuple, PersonLandmarks):
            some = {name: one for name, one in found.items() if isinstance(one, kind)}
            if some:
                done |= zip(some, fit(list(some.values())), strict=True)
        for name, _ in photos[first : first + batch_size]:
            yield name, done[name]


def _fit_batch(
    fitter: Fitter, photo_fitter: PhotoFitter | None, batch_size: int, found: list
) -> list[FitResult]:
    """Return the fits of one kind; padded, because another size would be compiled again."""
    blank = batch_size - len(found)
    if isinstance(found[0], PersonLandmarks):
        if photo_fitter is None:
            raise TypeError("photos read as PersonLandmarks need a photo_fitter")
        return photo_fitter(found + found[:1] * blank)[: len(found)]
    rows, sizes = zip(*found, strict=True)
    padded = np.pad(np.stack(rows), ((0, blank), (0, 0), (0, 0)))
    return fitter(padded, [*sizes, *[(1, 1)] * blank])[: len(found)]


def _is_accepted(entry: dict[str, Any] | None) -> bool:
    # no entry: a body file of other origin, which is not judged
    return entry is None or bool(entry["accepted"])


def _is_done(
    name: str, bodies: AnyPath, entries: dict[str, dict[str, Any]], states: FileStates
) -> bool:
    """Return True for a photo that is in the report or has a body file of other origin."""
    path = bodies / f"{name}.npz"
    if states.find(path) is None:
        return name in entries and not entries[name]["accepted"]
    return name in entries or str(read_npz(path, "body file").get("source", "")) != FIT_SOURCE


def _warn_of_other_people(
    kept: set[str], entries: dict[str, dict[str, Any]], person_index: int | None
) -> None:
    """Say which photos keep the fit of a person that this run does not ask for."""
    others = sorted(
        name for name in kept & set(entries) if entries[name].get("person_index") != person_index
    )
    if others:
        found = {entries[name].get("person_index") for name in others}
        had, wanted = (
            " and ".join(
                sorted(
                    "the largest person" if i is None else f"--person-index {i}" for i in indices
                )
            )
            for indices in (found, {person_index})
        )
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning(
            "%d photos (%s) keep an earlier result, for %s; --overwrite fits them again, for %s",
            *(len(others), shown, had, wanted),
        )


def _delete_fitted(path: AnyPath) -> None:
    """Delete the body of an earlier fit; one of other origin is kept, with a warning."""
    try:
        ours = str(read_npz(path, "body file").get("source", "")) == FIT_SOURCE
    except OmfaError:
        ours = False
    if ours:
        path.unlink()
    else:
        log.warning(
            "%s: the fit was rejected; keeping the existing body, which is not from a fit", path
        )


def _read_report(path: AnyPath) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        entries = parse_json(path.read_text())["photos"]
        return {name: dict(entry, accepted=bool(entry["accepted"]), reason=str(entry["reason"]))
                for name, entry in entries.items()}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OmfaError(
            f"{path}: damaged ({describe_damage(error)}); delete it to fit again"
        ) from None


def _write_report(path: AnyPath, entries: dict[str, dict[str, Any]]) -> None:
    accepted = sum(entry["accepted"] for entry in entries.values())
    summary = {"accepted": accepted, "rejected": len(entries) - accepted}
    with atomic_write(path) as temporary:
        photos = dict(sorted(entries.items()))
        temporary.write_text(json.dumps(summary | {"photos": photos}, indent=1) + "\n")
