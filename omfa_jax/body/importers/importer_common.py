"""Shared parts of the importers: the estimate they return, file lookup and parsing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float64

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.hand_pose import HandBasis
from omfa_jax.body.rotations import matrix_to_axis_angle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_dir

# tool -> fields that only its files have, and others that its importer asks for
_MARKS: dict[str, tuple[set[str], set[str]]] = {
    "smplifyx": ({"camera_translation", "body_pose"}, {"global_orient"}),
    "gvhmr": ({"smpl_params_incam"}, {"K_fullimg"}),
    "tram": ({"pred_rotmat"}, {"pred_shape", "pred_trans", "frame", "img_focal", "img_center"}),
    "hmr2": ({"pred_cam"}, {"global_orient", "body_pose", "betas", "pred_smpl_params"}),
    "champ": ({"smpls"}, {"cam_t", "global_orient", "body_pose", "betas"}),
    "easymocap": ({"Rh", "Th"}, {"poses", "shapes"}),
    "romp": ({"smpl_thetas"}, {"cam", "smpl_betas", "joints", "cam_trans"}),
    "amass": ({"poses", "trans"}, {"betas"}),
    "wham": ({"pose", "trans", "betas"}, {"frame_ids"}),
    "multihmr": ({"rotvec"}, {"shape", "transl_pelvis"}),
    "smplx": ({"global_orient", "body_pose"}, {"K", "focal_px"}),
}

# largest deviation from orthonormality of matrices computed in half precision
_ROTATION_TOLERANCE = 2e-2


@dataclass(frozen=True, eq=False)
class Estimate:
    """One person in one photo: SMPL or SMPL-X parameters, and the camera in the photo's pixels.

    `people` is the number of people in the file, from which the importer chose this one.
    """

    body: SmplBody | BodyParams
    camera: Camera
    people: int = 1


@dataclass(frozen=True, eq=False)
class ImportOptions:
    """Options of an import: whether to read pickles, and the SMPL-X model of the bodies.

    With `hands_from_mean`, zero hand poses in plain `smplx` and AMASS files mean the relaxed hand.
    `frame` is the frame of a motion to import, counted from 0.
    """

    allow_pickle: bool
    model: BodyModel
    hands: HandBasis
    hands_from_mean: bool = False
    frame: int | None = None


class BodyImporter(Protocol):
    """One tool's output; `frames` are keyed by the stem of the photo's file name.

    An importer whose `numbered` is True has the frames of a video: they are keyed by their number,
    and belong to the photo whose name ends in it.
    """

    @property
    def frames(self) -> Mapping[str, Any]: ...

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return one person of the frame; `size_px` is the photo's (width, height)."""
        ...


@dataclass
class FileIndex:
    """Files by frame name; OmfaError, naming both files, for a duplicate."""

    by_name: dict[str, Path] = field(default_factory=dict)

    def add(self, name: str, path: Path) -> None:
        if name in self.by_name:
            raise OmfaError(
                f"two files for {name}: {self.by_name[name]} and {path}; remove one of them"
            )
        self.by_name[name] = path


def find_files(path: Path, *suffixes: str) -> list[Path]:
    """Return `path` if it is a file, else the folder's files with these suffixes, by name."""
    if path.is_file():
        return [path]
    folder = require_dir(path, "bodies to import", "--in")
    files = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.name[0] != ".")
    if not files:
        raise OmfaError(f"no {' or '.join(suffixes)} file in {folder}; change --in")
    return files


def index_by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files keyed by the stem of their names; OmfaError for duplicates."""
    found = FileIndex()
    for path in paths:
        found.add(path.stem, path)
    return found.by_name


def parse_numbers(
    values: Any, name: str, shape: tuple[int, ...] | None = None
) -> Float64[Any, "..."]:
    """Return an array of finite float64 numbers, reshaped to `shape` if given; else OmfaError."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise OmfaError(f"{name}: expected numbers, got {type(values).__name__}") from None
    if shape is not None and array.size != np.prod(shape):
        raise OmfaError(f"{name}: expected {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise OmfaError(f"{name}: expected finite numbers, got nan or inf")
    return array if shape is None else array.reshape(shape)


def parse_rows(
    values: Any, name: str, size: int, count: int | None = None
) -> Float64[np.ndarray, "n size"]:
    """Return finite float64 numbers as rows of `size`, at least one; OmfaError for others.

    With `count` there must be as many; a single row is repeated.
    """
    array = parse_numbers(values, name)
    if not array.size or array.size % size:
        raise OmfaError(f"{name}: expected rows of {size} numbers, got shape {array.shape}")
    rows = array.reshape(-1, size)
    if count is None or len(rows) == count:
        return rows
    if len(rows) != 1:
        raise OmfaError(f"{name}: expected {count} rows, got {len(rows)}")
    return np.repeat(rows, count, axis=0)


def parse_rotations(values: Any, name: str, count: int) -> Float64[np.ndarray, "count 3"]:
    """Return axis-angle vectors (radians) of `count` rotations, from axis-angle or matrices."""
    array = parse_numbers(values, name)
    # tools disagree about axes of length 1, so the size decides and not the shape
    if array.size == 3 * count:
        return array.reshape(count, 3)
    if array.size != 9 * count:
        raise OmfaError(f"{name}: expected {count} rotations, got shape {array.shape}")
    matrices = array.reshape(count, 3, 3)
    error = np.abs(matrices @ matrices.swapaxes(1, 2) - np.eye(3)).max()
    if error > _ROTATION_TOLERANCE or (np.linalg.det(matrices) < 0).any():
        raise OmfaError(f"{name}: expected rotation matrices (orthonormal, determinant 1)")
    return np.stack([matrix_to_axis_angle(matrix) for matrix in matrices])


def get_field(record: Any, name: str, *others: str) -> Any:
    """Return the value of the first name that is present; OmfaError lists the present keys."""
    for key in (name, *others):
        if isinstance(record, Mapping) and key in record:
            return record[key]
    found = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
    raise OmfaError(f"missing {name} (found {found[:200]}){_suggest_source(record, name)}")


def get_list(record: Any, name: str, count: int | None = None) -> list[Any]:
    """Return a field as a list; OmfaError if it is missing, no list, or not of length `count`."""
    values = get_field(record, name)
    if isinstance(values, (str, Mapping)) or not np.iterable(values):
        raise OmfaError(f"{name}: expected a list, got {type(values).__name__}")
    items = list(values)
    if count is not None and len(items) != count:
        raise OmfaError(f"{name}: expected a list of {count}, got {len(items)}")
    return items


def _suggest_source(record: Any, missing: str) -> str:
    keys = record.keys() if isinstance(record, Mapping) else set()
    for source, (marks, needed) in _MARKS.items():
        # a file of this tool that lacks one of its own fields is incomplete, not of another tool
        if marks <= keys and missing not in needed:
            return f"; this looks like a file for --from {source}"
    return ""


def choose_frame(count: int, frame: int | None) -> int:
    """Return the frame of a motion of `count` frames; OmfaError if `--frame` must be changed."""
    if frame is None and count != 1:
        raise OmfaError(f"it has {count} frames; choose one with --frame, 0 to {count - 1}")
    if frame is not None and not 0 <= frame < count:
        raise OmfaError(f"--frame: expected 0 to {count - 1}, got {frame}")
    return frame or 0


def make_pinhole_camera(
    focal_px: Float[np.ndarray, "2"], center_px: Float[np.ndarray, "2"], size_px: tuple[int, int]
) -> Camera:
    """Return a pinhole camera at the origin, with the axes of the bodies."""
    return Camera(
        focal_px=(float(focal_px[0]), float(focal_px[1])),
        center_px=(float(center_px[0]), float(center_px[1])),
        width_px=size_px[0],
        height_px=size_px[1],
        rotation=np.eye(3),
        translation=np.zeros(3),
    )


def resize_to_photo(camera: Camera, size_px: tuple[int, int]) -> Camera:
    """Return the camera for the photo's current size; OmfaError if the aspect ratio differs."""
    if (camera.width_px, camera.height_px) == size_px:
        return camera
    # a scaled copy may be off by rounding: one pixel, plus 0.2%
    wanted = camera.height_px * size_px[0] / camera.width_px
    if abs(wanted - size_px[1]) > 1 + 0.002 * size_px[1]:
        raise OmfaError(
            f"estimated on an image of {camera.size_text}, but the photo is"
            f" {size_px[0]}x{size_px[1]}, not a scaled copy of it"
        )
    return camera.resize(*size_px)


def find_largest(areas: Sequence[float]) -> int:
    """Return the index of the largest value, the first of equal ones."""
    return int(np.argmax(np.asarray(areas, np.float64)))
