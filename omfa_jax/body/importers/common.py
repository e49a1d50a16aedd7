"""What the importers share: the estimate they return, names, rotations, boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float64

from omfa_jax.body.camera import Camera
from omfa_jax.body.hands import Hands
from omfa_jax.body.model import BodyModel
from omfa_jax.body.params import BodyParams
from omfa_jax.body.rotations import axis_angle
from omfa_jax.body.smpl import SmplBody
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import require_dir

# networks that compute in half precision leave matrices this far from rotations
_ROTATION_TOLERANCE = 2e-2


@dataclass(frozen=True, eq=False)
class Estimate:
    """One person of one photo: SMPL or SMPL-X parameters, and the camera in the photo's pixels.

    `people` says how many the file has for the photo; this one was taken by the importer's rule.
    """

    body: SmplBody | BodyParams
    camera: Camera
    people: int = 1


@dataclass(frozen=True, eq=False)
class Reading:
    """How files are read: trust in pickles, and the SMPL-X model that the bodies are for.

    `hands_from_mean` says that zero hand poses of plain `smplx` files mean the relaxed hand.
    """

    trust: bool
    model: BodyModel
    hands: Hands
    hands_from_mean: bool = False


class Source(Protocol):
    """One tool's output: the frames in it, by the stem of their photo's name."""

    @property
    def frames(self) -> Mapping[str, Any]: ...

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the frame's person; `size_px` is (width, height) of its photo."""
        ...


@dataclass
class Found:
    """Files by frame name; a name found twice is an error that names both."""

    by_name: dict[str, Path] = field(default_factory=dict)

    def add(self, name: str, path: Path) -> None:
        if name in self.by_name:
            raise OmfaError(f"two files for {name}: {self.by_name[name]} and {path}; change --in")
        self.by_name[name] = path


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """Return `path` if it is a file, else the folder's files with one of the suffixes, by name."""
    if path.is_file():
        return [path]
    folder = require_dir(path, "bodies to import", "--in")
    files = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.name[0] != ".")
    if not files:
        raise OmfaError(f"no {' or '.join(suffixes)} file in {folder}; change --in")
    return files


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files by the stem of their names; OmfaError if two have the same."""
    found = Found()
    for path in paths:
        found.add(path.stem, path)
    return found.by_name


def numbers(values: Any, name: str, shape: tuple[int, ...] | None = None) -> Float64[Any, "..."]:
    """Return an array of finite float64 numbers, reshaped to `shape` if given; else OmfaError."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise OmfaError(f"{name}: expected numbers, found {type(values).__name__}") from None
    if shape is not None and array.size != np.prod(shape):
        raise OmfaError(f"{name}: expected {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise OmfaError(f"{name}: expected finite numbers, found nan or inf")
    return array if shape is None else array.reshape(shape)


def rotations(values: Any, name: str, count: int) -> Float64[np.ndarray, "count 3"]:
    """Return axis-angle vectors (radians) of `count` rotations, given as such or as matrices."""
    array = numbers(values, name)
    if array.size == 3 * count:
        return array.reshape(count, 3)
    if array.size != 9 * count:
        raise OmfaError(f"{name}: expected {count} rotations, got shape {array.shape}")
    matrices = array.reshape(count, 3, 3)
    error = np.abs(matrices @ matrices.swapaxes(1, 2) - np.eye(3)).max()
    if error > _ROTATION_TOLERANCE or (np.linalg.det(matrices) < 0).any():
        raise OmfaError(f"{name}: expected rotation matrices (orthonormal, determinant 1)")
    return np.stack([axis_angle(matrix) for matrix in matrices])


def field_of(record: Any, name: str, *others: str) -> Any:
    """Return the value under the first of the names that is there; OmfaError names what is."""
    for key in (name, *others):
        if isinstance(record, Mapping) and key in record:
            return record[key]
    found = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
    raise OmfaError(f"missing {name} (found {found[:200]})")


def pinhole(
    focal_px: Float[np.ndarray, "2"], center_px: Float[np.ndarray, "2"], size_px: tuple[int, int]
) -> Camera:
    """Return the camera whose axes are the bodies' own."""
    return Camera(
        focal_px=(float(focal_px[0]), float(focal_px[1])),
        center_px=(float(center_px[0]), float(center_px[1])),
        width_px=size_px[0],
        height_px=size_px[1],
        rotation=np.eye(3),
        translation=np.zeros(3),
    )


def for_photo(camera: Camera, size_px: tuple[int, int]) -> Camera:
    """Return the camera of the photo at its present size; OmfaError if it is not a scaled copy."""
    if (camera.width_px, camera.height_px) == size_px:
        return camera
    wanted = camera.height_px * size_px[0] / camera.width_px
    if abs(wanted - size_px[1]) > 1 + 0.002 * size_px[1]:
        raise OmfaError(
            f"made on a picture of {camera.size_text}, but the photo is {size_px[0]}x{size_px[1]}"
        )
    return camera.resized(*size_px)


def largest(areas: Sequence[float]) -> int:
    """Return the index of the largest; of equal ones the first."""
    return int(np.argmax(np.asarray(areas, np.float64)))
