"""Body files: an .npz with one body's parameters, under smplx's names, and its camera."""

import io
import os
from typing import Any

import numpy as np

from omfa_jax.body.body_params import PARAM_SHAPES, BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.npz_reader import UNPACK_ERRORS, read_arrays
from omfa_jax.core.path_checks import require_any_file
from omfa_jax.core.paths import AnyPath, RemotePath, to_path

CAMERA_KEYS = ("focal_px", "center_px", "image_size_px", "cam_rotation", "cam_translation")

# origin of a body, "" if unknown. "exact": ground truth (synthetic data); "smplx": an SMPL-X
# estimate; "smpl_fit" and "smpl_copy21": an SMPL estimate converted to SMPL-X by fitting its mesh,
# or (approximate) by copying its joint rotations; "keypoints": fitted to 2D keypoints
BODY_SOURCES = ("", "exact", "smplx", "smpl_fit", "smpl_copy21", "keypoints")


def save_body(
    path: str | os.PathLike, params: BodyParams, camera: Camera, *, source: str = ""
) -> None:
    """Write parameters and camera to `path` (.npz), atomically.

    Keys: smplx's parameter names, then focal_px (x, y), center_px (x, y), image_size_px
    (width, height), cam_rotation (3, 3) and cam_translation (3,): x_cam = R x_world + t; and
    `source`, one of BODY_SOURCES, unless it is "".
    """
    if source not in BODY_SOURCES:
        raise make_unknown_name_error("body source", source, BODY_SOURCES)
    arrays: dict[str, Any] = params.as_dict() | {
        "focal_px": np.array(camera.focal_px),
        "center_px": np.array(camera.center_px),
        "image_size_px": np.array([camera.width_px, camera.height_px]),
        "cam_rotation": camera.rotation,
        "cam_translation": camera.translation,
    }
    if source:
        arrays["source"] = np.array(source)
    if to_path(path).suffix != ".npz":
        raise OmfaError(f"{path}: expected a body file name ending in .npz")
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


def load_body(path: str | os.PathLike) -> tuple[BodyParams, Camera]:
    """Return (parameters, camera) of a body file of `save_body` or of any tool with these keys.

    Raises OmfaError, with the path, if the file is missing or damaged or lacks a key.
    """
    arrays = read_npz(path, "body file")
    wanted = (*PARAM_SHAPES, *CAMERA_KEYS)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise OmfaError(
            f"body file {path}: missing {', '.join(missing)} ({len(wanted)} keys are required)"
        )
    try:
        width, height = _parse_pair(arrays, "image_size_px")
        camera = Camera(
            focal_px=_parse_pair(arrays, "focal_px"),
            center_px=_parse_pair(arrays, "center_px"),
            width_px=int(width),
            height_px=int(height),
            # other tools save these with a leading axis of 1
            rotation=arrays["cam_rotation"].astype(np.float64).squeeze(),
            translation=arrays["cam_translation"].astype(np.float64).ravel(),
        )
        params = BodyParams(**{name: arrays[name] for name in PARAM_SHAPES})
    except (OmfaError, ValueError, TypeError) as error:
        raise OmfaError(f"body file {path}: {error}") from None
    return params, camera


def read_body_source(pose_map: AnyPath | None) -> str:
    """Return the origin of the body of SPLIT/pose/NAME.png, as stored in SPLIT/smplx/NAME.npz.

    It is "" without a map, a body file or a source in it, and for a file that cannot be read.
    """
    if pose_map is None:
        return ""
    body = pose_map.parents[1] / "smplx" / f"{pose_map.stem}.npz"
    try:
        source = str(read_npz(body, "body file").get("source", ""))
    except OmfaError:
        return ""
    return source if source in BODY_SOURCES else ""


def _parse_pair(arrays: dict[str, np.ndarray], name: str) -> tuple[float, float]:
    if arrays[name].size != 2:
        raise OmfaError(f"{name}: expected 2 numbers (x, y), got shape {arrays[name].shape}")
    x, y = arrays[name].astype(np.float64).ravel().tolist()
    return x, y


def read_npz(path: str | os.PathLike, what: str, flag: str = "the path") -> dict[str, np.ndarray]:
    """Return all arrays of an .npz; OmfaError if it is missing or damaged.

    Arrays of Python objects (the official SMPL-X file has some) are skipped, never unpickled.
    """
    place = to_path(path)
    try:
        # at once: in object storage a look and each part that is read are requests
        content = place.read_bytes() if isinstance(place, RemotePath) else None
    except FileNotFoundError:
        content = None
    if content is None:
        place = require_any_file(place, what, flag)
    try:
        with place.open("rb") if content is None else io.BytesIO(content) as file:
            if file.read(6) == b"\x93NUMPY":
                raise ValueError("it is a single array (.npy)")
            return read_arrays(file)
    except (*UNPACK_ERRORS, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OmfaError(f"{what} {path}: not a complete .npz file: {reason}") from None
