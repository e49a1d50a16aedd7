"""Multi-HMR's person dicts: PHOTO.pkl (or .npy, .npz) with a list of people.

Each has `rotvec` (53, 3) = root, 21 body, 15 left hand, 15 right hand, jaw (or `rotmat`), `shape`,
`expression`, `scores`, and `transl_pelvis`, the pelvis in camera axes (OpenCV, metres); hand poses
are relative to the flat hand. The network sees the photo scaled to fit a square of side S (896 px
for most checkpoints) and padded, and the camera is that of the square. The dict does not contain
it, but the projection of `j3d_smplx` to `j2d_smplx` determines it exactly; a `K` (3, 3) in the dict
takes precedence. A single .pkl may also be {photo name: list of people}, and an .npz may have the
dicts' arrays stacked over people.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera
from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    find_files,
    find_largest,
    get_field,
    index_by_stem,
    make_pinhole_camera,
    parse_numbers,
    parse_rotations,
    parse_rows,
)
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.core.errors import OmfaError

NUM_ROTATIONS = 53
# image sides are multiples of the patch size
PATCH_PX = 14


class MultiHmrImporter:
    """Importer of a folder with one file per photo, or of a single file."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        files = find_files(path, ".pkl", ".npy", ".npz")
        self.frames: dict[str, Any] = dict(index_by_stem(files))
        if path.is_file():
            raw = self._load(path)
            if isinstance(raw, Mapping) and not {"rotvec", "rotmat", "humans"} & raw.keys():
                self.frames = {Path(str(name)).stem: people for name, people in raw.items()}

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the person with the highest detection score."""
        raw = self.frames[frame]
        people = _list_people(self._load(raw) if isinstance(raw, Path) else raw)
        scores = [parse_rows(p.get("scores", 0.0), "scores", 1)[0, 0] for p in people]
        person = people[find_largest(scores)]
        body = self._params(person)
        matrix, side_px = _find_square_camera(person)
        return Estimate(body, _make_photo_camera(matrix, side_px, size_px), people=len(people))

    def _load(self, path: Path) -> Any:
        return read_pickle(path, "body file", allow_pickle=self._reading.allow_pickle)

    def _params(self, person: Mapping[str, Any]) -> BodyParams:
        name = "rotvec" if "rotvec" in person else "rotmat"
        turned = parse_rotations(get_field(person, name), name, NUM_ROTATIONS)
        shape = parse_numbers(get_field(person, "shape"), "shape").ravel()
        if shape.size not in (10, 11):
            raise OmfaError(f"shape: expected 10 or 11 numbers, got {shape.size}")
        expression = person.get("expression", np.zeros(10))
        params = make_neutral_params().replace(
            betas=shape[:10],
            expression=parse_numbers(expression, "expression").ravel()[:10],
            global_orient=turned[0],
            body_pose=turned[1:22],
            left_hand_pose=turned[22:37],
            right_hand_pose=turned[37:52],
            jaw_pose=turned[52],
        )
        # transl moves the pelvis, about which the body rotates, from its rest position
        model = self._reading.model
        coefficients = np.concatenate([params.betas, params.expression])
        rest = model.joint_template[0] + model.joint_dirs[0] @ coefficients
        pelvis = parse_numbers(get_field(person, "transl_pelvis"), "transl_pelvis", (3,))
        return params.replace(transl=pelvis - rest)


def _list_people(raw: Any) -> list[Mapping[str, Any]]:
    """Return a dict per person, from a list, an array of objects or arrays stacked over people."""
    if isinstance(raw, Mapping) and "humans" in raw:
        raw = raw["humans"]
    if isinstance(raw, Mapping):
        shape = np.shape(get_field(raw, "rotvec", "rotmat"))
        matrices = "rotvec" not in raw
        if len(shape) == (3 if matrices else 2):
            return [raw]
        stacked = {n: v for n, v in raw.items() if np.ndim(v) and len(v) == shape[0]}
        shared = {n: v for n, v in raw.items() if n not in stacked or np.shape(v) == (3, 3)}
        return [shared | {n: v[i] for n, v in stacked.items()} for i in range(shape[0])]
    people = list(raw) if isinstance(raw, (list, tuple, np.ndarray)) else [raw]
    if not people:
        raise OmfaError("no person in this photo")
    if not all(isinstance(person, Mapping) for person in people):
        raise OmfaError(
            f"expected dicts with rotvec, shape and transl_pelvis, got {type(people[0]).__name__}"
            " (the meshes saved by Multi-HMR's demo have no parameters)"
        )
    return people


def _find_square_camera(person: Mapping[str, Any]) -> tuple[Float64[np.ndarray, "3 3"], int]:
    """Return the camera matrix and side (px) of the square; the principal point is its centre."""
    if "K" in person:
        matrix = parse_numbers(person["K"], "K", (3, 3))
    else:
        points = _parse_points(person, 3, "j3d_smplx", "j3d", "v3d", "verts_smplx")
        pixels = _parse_points(person, 2, "j2d_smplx", "j2d", "v2d")
        if len(points) != len(pixels):
            raise OmfaError(f"j3d_smplx has {len(points)} points but j2d_smplx {len(pixels)}")
        matrix = np.eye(3)
        for axis in range(2):
            ratio = np.stack([points[:, axis] / points[:, 2], np.ones(len(points))], axis=1)
            (focal, center), *_ = np.linalg.lstsq(ratio, pixels[:, axis], rcond=None)
            if np.abs(ratio @ [focal, center] - pixels[:, axis]).max() > 2:
                raise OmfaError("no camera projects j3d_smplx to j2d_smplx")
            matrix[axis, axis], matrix[axis, 2] = focal, center
    side = parse_rows(person.get("img_size", 2 * matrix[0, 2]), "img_size", 1)[0, 0]
    # the side as twice the fitted centre is not exact; the true one is a multiple of the patch size
    return matrix, PATCH_PX * round(side / PATCH_PX)


def _parse_points(person: Mapping[str, Any], size: int, *names: str) -> Float64[np.ndarray, "n k"]:
    try:
        return parse_rows(get_field(person, *names), names[0], size)
    except OmfaError:
        raise OmfaError(
            "no camera: save K (3, 3) of the network's square input, or j3d_smplx and j2d_smplx,"
            " for each person"
        ) from None


def _make_photo_camera(
    matrix: Float64[np.ndarray, "3 3"], side_px: int, size_px: tuple[int, int]
) -> Camera:
    """Return the photo's camera: the inverse of PIL's ImageOps.contain and padding to a square."""
    size = np.array(size_px, np.float64)
    inner = np.array([side_px, side_px])
    short = int(np.argmin(size))
    if size[0] != size[1]:
        # the same rounding as PIL's
        inner[short] = round(size[short] / size.max() * side_px)
    offset = np.array([round((side_px - length) / 2) for length in inner])
    scale = size / inner
    focal_px = scale * np.diag(matrix)[:2]
    return make_pinhole_camera(focal_px, scale * (matrix[:2, 2] - offset), size_px)
