"""Import of body files for a raw data set from a pose network's output; resumable."""

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.importers.importer_common import BodyImporter
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.body.smpl_to_smplx import SmplConverter
from omfa_jax.core.atomic_files import delete_stale_temporaries, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.file_states import FileStates, list_folders
from omfa_jax.core.images import read_upright_size
from omfa_jax.core.path_checks import require_any_dir, require_any_writable_file
from omfa_jax.core.paths import AnyPath

PHOTO_DIRS = ("image", "images")
# DressCode has garments (NNNNNN_1) in the same folder as people (NNNNNN_0)
_MIXED = ("upper_body", "lower_body", "dresses")
_LISTED = 20
# a body's axis within 45 degrees of straight down; people lie and bend
_MAX_DOWN = 0.7
_UPSIDE_DOWN = (
    "photos have a body that is upside down; unless they show that, the file's axes are not the"
    " tool's own (x right, y down, z forward)"
)


@dataclass
class ImportReport:
    """The result of an import.

    `failed` has (photo, reason) pairs; `crowds` lists photos with several people, `no_photo` frames
    without a photo, `no_body` photos without a frame, and `upside_down` photos whose body has its
    head below.
    """

    imported: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    crowds: list[str] = field(default_factory=list)
    no_photo: list[str] = field(default_factory=list)
    no_body: list[str] = field(default_factory=list)
    upside_down: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a line of counts, lists of at most 20 names each, and all failures."""
        lines = [f"{self.imported} bodies imported, {self.kept} kept, {len(self.failed)} failed"]
        for names, text in (
            (self.no_body, "photos have no body"),
            (self.no_photo, "frames have no photo"),
            (self.crowds, "photos show several people, of which one was imported"),
            (self.upside_down, _UPSIDE_DOWN),
        ):
            if names:
                more = "" if len(names) <= _LISTED else f" and {len(names) - _LISTED} more"
                lines.append(f"  {len(names)} {text}: {', '.join(names[:_LISTED])}{more}")
        return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in self.failed)])


def import_bodies(
    source: BodyImporter,
    raw_dir: str | os.PathLike,
    convert: SmplConverter,
    *,
    split: str | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Write SPLIT/smplx/NAME.npz for every photo SPLIT/image/NAME.* with a frame in `source`.

    `split` None means the data set's folder and all folders in it that contain image/ or images/.
    Existing bodies are kept unless `overwrite`; a failure is reported and does not stop the import.
    Raises OmfaError if there are no photos, none of them has a frame, or another process is
    writing bodies there.
    """
    photos = find_photos(raw_dir, split)
    with contextlib.ExitStack() as locks:
        # sorted, so that two imports take their locks in the same order
        for folder in sorted({body.parents[1] for _, body in photos}):
            require_any_writable_file(folder / "smplx" / "NAME.npz", "--raw")
            locks.enter_context(exclusive_lock(folder))
            delete_stale_temporaries(folder / "smplx")
        return _import_photos(source, photos, raw_dir, convert, overwrite)


def _import_photos(
    source: BodyImporter,
    photos: list[tuple[AnyPath, AnyPath]],
    raw_dir: str | os.PathLike,
    convert: SmplConverter,
    overwrite: bool,
) -> ImportReport:
    report, states = ImportReport(), FileStates()
    # list all photos before reading any frame, so that a wrong --in fails at once
    due = []
    matched: dict[str, str] = {}
    for photo, body in photos:
        name = photo.relative_to(raw_dir).as_posix()
        frame = find_frame(source, photo.stem)
        if frame is not None and frame != photo.stem and frame in matched:
            raise OmfaError(
                f"two photos end in the number of frame {frame}: {matched[frame]} and {name}; leave"
                " the photos of one video in --raw, or choose them with --split"
            )
        if frame is None:
            report.no_body.append(name)
        elif not overwrite and states.find(body) is not None:
            report.kept += 1
        else:
            due.append((name, frame, photo, body))
        if frame is not None:
            matched[frame] = name
    report.no_photo = sorted(set(source.frames) - matched.keys())
    if len(report.no_body) == len(photos):
        frames = ", ".join(sorted(source.frames)[:3]) or "none"
        raise OmfaError(
            f"no frame matches a photo by name: frames are {frames}, photos"
            f" {photos[0][0].stem}; check --in, --raw and --split"
        )
    # what importers say would otherwise be appended to the bar
    with logging_redirect_tqdm():
        for name, frame, photo, body in tqdm(due, unit="body", desc="bodies"):
            try:
                people, is_upright = _import_one(source, frame, photo, body, convert)
            except OmfaError as error:
                report.failed.append((name, str(error)))
            except Exception as error:  # one odd file must not stop a folder of thousands
                reason = " ".join(str(error).split())
                report.failed.append((name, f"{type(error).__name__}: {reason}"))
            else:
                report.imported += 1
                report.crowds += [name] if people > 1 else []
                report.upside_down += [] if is_upright else [name]
    return report


def find_photos(raw_dir: str | os.PathLike, split: str | None) -> list[tuple[AnyPath, AnyPath]]:
    """Return (photo, body file) pairs of one split or of all; OmfaError if there are none."""
    root = require_any_dir(raw_dir, "raw data set", "--raw")
    parents = [root, *list_folders(root)]
    if split is not None:
        parents = [require_any_dir(root / split, "split", "--split")]
    pairs = []
    for parent in parents:
        for folder in (parent / name for name in PHOTO_DIRS):
            if folder.is_dir() and parent.name not in PHOTO_DIRS:
                names = sorted(e.name for e in folder.iterdir() if e.name[0] != ".")
                if parent.name in _MIXED:
                    names = [name for name in names if Path(name).stem.endswith("_0")]
                pairs += [
                    (folder / name, parent / "smplx" / f"{Path(name).stem}.npz") for name in names
                ]
    if not pairs:
        raise OmfaError(f"no photos in {root}; expected {root}/{split or 'SPLIT'}/image/NAME.jpg")
    return pairs


def find_frame(source: BodyImporter, stem: str) -> str | None:
    """Return the key of the frame of a photo, by name or, for a video, by number; None without."""
    if stem in source.frames:
        return stem
    number = re.search(r"\d+$", stem) if getattr(source, "numbered", False) else None
    key = str(int(number[0])) if number else ""
    return key if key in source.frames else None


def _import_one(
    source: BodyImporter, frame: str, photo: AnyPath, body: AnyPath, convert: SmplConverter
) -> tuple[int, bool]:
    """Write one body; return the number of people in the photo, and whether this one is upright."""
    estimate = source.read(frame, read_upright_size(photo, "photo"))
    found, way = estimate.body, "smplx"
    if isinstance(found, SmplBody):
        found, way = convert(found), convert.source
    save_body(body, found, estimate.camera, source=way)
    return estimate.people, _is_upright(found, estimate.camera)


def _is_upright(params: BodyParams, camera: Camera) -> bool:
    """Return whether the axis from pelvis to head does not point down in the photo."""
    down = camera.rotation[1]
    return bool(down @ axis_angle_to_matrix(params.global_orient[None])[0, :, 1] <= _MAX_DOWN)
