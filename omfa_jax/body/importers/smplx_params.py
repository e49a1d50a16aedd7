"""Plain SMPL-X parameters: PHOTO.npz with smplx's names, axis-angle or matrices, and a camera.

Parameters: global_orient and body_pose; betas, expression, transl, jaw, eyes and hands are optional
and default to zero. Several people may be stacked along a leading axis. Camera, OpenCV axes, in the
photo's pixels: `K` (3, 3), or `focal_px` | `focal` | `focal_length` (1 or 2 numbers) with
`center_px` | `princpt` | `camera_center` (default: the centre of the photo). If the bodies are not
in camera axes, also `cam_rotation` | `camera_rotation` | `R` and `cam_translation` |
`camera_translation` | `T`: x_cam = R x + t. `image_size_px` | `image_size` (w, h) allows for photos
that were scaled since. Hand poses are relative to the flat hand unless flat_hand_mean is False.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

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
    resize_to_photo,
)
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.core.errors import OmfaError

FOCAL = ("focal_px", "focal", "focal_length")
CENTER = ("center_px", "princpt", "camera_center")
ROTATION = ("cam_rotation", "camera_rotation", "R")
TRANSLATION = ("cam_translation", "camera_translation", "T")
SIZE = ("image_size_px", "image_size")


class SmplxImporter:
    """Importer of a folder with one .npz per photo, or of a single one."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        self.frames = index_by_stem(find_files(path, ".npz"))

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the person with the largest `bbox` (x y w h); without boxes the first."""
        raw = read_pickle(self.frames[frame], "body file", allow_pickle=self._reading.allow_pickle)
        people = _count_people(raw)
        index = 0
        if people > 1 and "bbox" in raw:
            boxes = parse_numbers(raw["bbox"], "bbox", (people, 4))
            index = find_largest(boxes[:, 2] * boxes[:, 3])
        from_mean = self._reading.hands_from_mean
        if "flat_hand_mean" in raw:
            from_mean = not bool(raw["flat_hand_mean"])
        body = parse_smplx_params(raw, self._reading, hands_from_mean=from_mean, index=index)
        return Estimate(body, parse_camera(raw, people, index, size_px), people=people)


def parse_smplx_params(
    raw: dict[str, Any], reading: ImportOptions, *, hands_from_mean: bool, index: int = 0
) -> BodyParams:
    """Return the parameters of person `index` from an .npz with smplx's names.

    Everything but the pose defaults to zero. Only the first 10 betas and expressions are used.
    Raises OmfaError if the pose is missing or not of smplx's size.
    """
    people = _count_people(raw)
    turned = {
        name: parse_rotations(_select_person(raw, name, people, index), name, joints)
        for name, joints in (("global_orient", 1), ("body_pose", 21))
    }
    for name in ("jaw_pose", "leye_pose", "reye_pose"):
        if name in raw:
            turned[name] = parse_rotations(_select_person(raw, name, people, index), name, 1)
    for side, name in enumerate(("left_hand_pose", "right_hand_pose")):
        pose = _select_person(raw, name, people, index) if name in raw else np.zeros(45)
        # 15 rotation matrices; other sizes are axis-angle or PCA coefficients
        if pose.size == 135:
            pose = parse_rotations(pose, name, 15)
        turned[name] = reading.hands.to_flat_hand(pose, side, from_mean=hands_from_mean)
    shapes = {
        name: _select_person(raw, name, people, index).ravel()[:10]
        for name in ("betas", "expression")
        if name in raw
    }
    transl = _select_person(raw, "transl", people, index) if "transl" in raw else np.zeros(3)
    return make_neutral_params().replace(transl=transl, **turned, **shapes)


def _count_people(raw: dict[str, Any]) -> int:
    poses = parse_numbers(get_field(raw, "global_orient"), "global_orient")
    return max(1, poses.size // (9 if poses.shape[-2:] == (3, 3) else 3))


def _select_person(raw: dict[str, Any], name: str, people: int, index: int) -> np.ndarray:
    values = parse_numbers(get_field(raw, name), name)
    # shared arrays, such as one K for all, have no axis of people
    is_each = people > 1 and values.ndim > 1 and len(values) == people
    return values[index] if is_each else values


def parse_camera(raw: dict[str, Any], people: int, index: int, size_px: tuple[int, int]) -> Camera:
    """Return the camera of person `index`, from the fields at the top of this module."""
    own_px = size_px
    if any(name in raw for name in SIZE):
        width, height = parse_numbers(get_field(raw, *SIZE), "image_size_px", (2,))
        own_px = (round(width), round(height))

    def own(*names: str) -> np.ndarray:
        found = next(name for name in names if name in raw)
        return _select_person(raw, found, people, index)

    if "K" in raw:
        matrix = own("K").reshape(3, 3)
        focal_px, center_px = np.diag(matrix)[:2], matrix[:2, 2]
    elif any(name in raw for name in FOCAL):
        # a single focal length serves both axes
        focal_px = np.resize(own(*FOCAL), 2)
        has_center = any(name in raw for name in CENTER)
        center_px = own(*CENTER).ravel() if has_center else np.array(own_px) / 2
    else:
        raise OmfaError(
            f"no camera: add K (3, 3), or {FOCAL[0]} and {CENTER[0]}, in pixels of the photo"
        )
    camera = make_pinhole_camera(focal_px, center_px, own_px)
    if any(name in raw for name in ROTATION):
        turn = parse_rotations(own(*ROTATION), ROTATION[0], 1)
        camera = replace(camera, rotation=axis_angle_to_matrix(turn)[0])
    if any(name in raw for name in TRANSLATION):
        camera = replace(camera, translation=own(*TRANSLATION).ravel())
    return resize_to_photo(camera, size_px)
