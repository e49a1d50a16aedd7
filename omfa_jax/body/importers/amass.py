"""Motion capture in AMASS's form, also BEAT's: PHOTO.npz with `poses` over frames, and no camera.

`poses` is axis-angle in smplx's order: (n, 165) for SMPL-X, (n, 156) for SMPL-H, (n, 72) for SMPL;
`betas` (10 or more; one row or one per frame), `expressions` (n, 10 or more). The world's up axis
is z in AMASS and y in BEAT; the file does not say so, and the spines of all frames show it. `trans`
is of no use without a camera. A file with the camera fields of plain smplx files is placed by them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from omfa_jax.body.body_params import BodyParams, make_params_from_pose
from omfa_jax.body.camera import Camera
from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    choose_frame,
    find_files,
    get_field,
    index_by_stem,
    parse_numbers,
)
from omfa_jax.body.importers.smplx_params import FOCAL, parse_camera
from omfa_jax.body.pose_library import make_studio_camera
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.core.errors import OmfaError

log = logging.getLogger(__name__)

SMPLX_SIZE, SMPLH_SIZE, SMPL_SIZE = 165, 156, 72
BODY_JOINTS = 22
# the world's up axis is one of these; AMASS z, BEAT y, and cameras' axes have y down
_UP_AXES = np.array([[0, 1, 0], [0, 0, 1], [0, -1, 0]], np.float64)


class AmassImporter:
    """Importer of a folder with one .npz per photo, or of a single one; `--frame` chooses one."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        self._warned = False
        self.frames = index_by_stem(find_files(path, ".npz"))

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the chosen frame's body, by the file's camera or before one that shows it all."""
        raw = read_pickle(self.frames[frame], "body file", allow_pickle=self._reading.allow_pickle)
        poses = parse_numbers(get_field(raw, "poses"), "poses")
        size = poses.shape[-1] if poses.ndim == 2 else 0
        if size not in (SMPLX_SIZE, SMPLH_SIZE, SMPL_SIZE) or not len(poses):
            raise OmfaError(
                f"poses: expected (frames, {SMPLX_SIZE}), {SMPLH_SIZE} or {SMPL_SIZE} numbers of"
                f" SMPL-X, SMPL-H or SMPL, got {poses.shape}"
            )
        index = choose_frame(len(poses), self._reading.frame)
        pose = poses[index].reshape(-1, 3)
        betas = _read_row(raw, "betas", index, len(poses))
        if any(name in raw for name in ("K", *FOCAL)):
            transl = _read_row(raw, "trans", index, len(poses))[:3]
            camera = parse_camera(raw, 1, 0, size_px)
            return Estimate(self._make_body(pose, betas, raw, index, len(poses), transl), camera)
        if not self._warned:
            self._warned = True
            if size == SMPLH_SIZE:
                log.warning("%s: SMPL-H's hands are left out", self.frames[frame].name)
            log.warning(
                "%s: no camera (K, or focal_px): the bodies are shown whole, from the front, and do"
                " not lie on the people of the photos",
                self.frames[frame].name,
            )
        pose = pose.copy()
        pose[0] = _turn_to_front(poses[:, :3], index)
        body = self._make_body(pose, betas, raw, index, len(poses), np.zeros(3))
        return Estimate(body, self._make_camera(body, pose, size_px))

    def _make_camera(
        self,
        body: BodyParams | SmplBody,
        pose: Float64[np.ndarray, "j 3"],
        size_px: tuple[int, int],
    ) -> Camera:
        if isinstance(body, SmplBody):
            full = np.zeros((55, 3))
            full[:BODY_JOINTS] = pose[:BODY_JOINTS]
            body = make_params_from_pose(full)
        return make_studio_camera(self._reading.model, [body], *size_px)

    def _make_body(
        self,
        pose: Float64[np.ndarray, "j 3"],
        betas: Float64[np.ndarray, "b"],
        raw: Mapping[str, Any],
        *row: Any,
    ) -> BodyParams | SmplBody:
        index, count, transl = row
        if 3 * len(pose) != SMPLX_SIZE:
            rotations = np.zeros((23, 3))
            rotations[: BODY_JOINTS - 1] = pose[1:BODY_JOINTS]
            # SMPL-X's pelvis at rest, so that the body is where `transl` puts SMPL-X's
            pelvis = self._reading.model.joint_template[0] + transl
            padded = np.zeros(10)
            padded[: min(10, betas.size)] = betas[:10]
            return SmplBody(padded, pose[0], rotations, transl, pelvis.astype(np.float64))
        pose = pose.copy()
        hands = [
            self._reading.hands.to_flat_hand(
                pose[at : at + 15], side, from_mean=self._reading.hands_from_mean
            )
            for side, at in enumerate((25, 40))
        ]
        pose[25:55] = np.concatenate(hands).reshape(30, 3)
        shapes = {"betas": betas, "expression": _read_row(raw, "expressions", index, count)}
        padded = {name: np.pad(v[:10], (0, 10 - len(v[:10]))) for name, v in shapes.items()}
        return make_params_from_pose(pose, transl=transl, **padded)


def _read_row(raw: Mapping[str, Any], name: str, index: int, count: int) -> Float64[Any, "n"]:
    """Return a field of one frame, also of one row for all frames; zeros if it is missing."""
    if name not in raw:
        return np.zeros(10)
    values = parse_numbers(raw[name], name)
    if values.ndim > 1 and len(values) not in (1, count):
        raise OmfaError(f"{name}: expected a row or {count} of them, got {values.shape}")
    return values.ravel() if values.ndim < 2 else values[index if len(values) > 1 else 0].ravel()


def _turn_to_front(orients: Float64[np.ndarray, "n 3"], index: int) -> Float64[np.ndarray, "3"]:
    """Return the orientation of one frame, upright by the world's up axis and facing +z."""
    turns = axis_angle_to_matrix(orients)
    up = _UP_AXES[np.argmax(_UP_AXES @ turns[:, :, 1].mean(0))]
    front = turns[index, :, 2] - up * (up @ turns[index, :, 2])
    if np.linalg.norm(front) < 1e-3:
        # lying: any direction on the ground will do
        front = np.roll(up, 1) - up * (up @ np.roll(up, 1))
    front = front / np.linalg.norm(front)
    axes = np.stack([np.cross(up, front), up, front])
    return matrix_to_axis_angle(axes @ turns[index])
