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
from omfa_jax.core.atomic_files import require_dir
from omfa_jax.core.errors import OmfaError

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

    With `hands_from_mean`, zero hand poses in plain `smplx` files mean the relaxed hand.
    """

    allow_pickle: bool
    model: BodyModel
    hands: HandBasis
    hands_from_mean: bool = False


class BodyImporter(Protocol):
    """One tool's output; `frames` are keyed by the stem of the photo's file name."""

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
    raise OmfaError(f"missing {name} (found {found[:200]})")


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
