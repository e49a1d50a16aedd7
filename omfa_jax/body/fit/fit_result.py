"""The result of a fit: body, camera and report."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera
from omfa_jax.body.fit import pose_prior
from omfa_jax.body.fit.fit_quality import FitReport
from omfa_jax.body.fit.keypoint_projection import TO_CAMERA
from omfa_jax.body.rotations import matrix_to_axis_angle


@dataclass(frozen=True, eq=False)
class FitResult:
    """One photo's body, camera and quality report; `unknowns` is what a fit continues from."""

    params: BodyParams
    camera: Camera
    report: FitReport
    unknowns: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


def make_body_params(one: dict[str, Any]) -> BodyParams:
    """Return the body of one photo's solution."""
    turns = np.stack([matrix_to_axis_angle(turn) for turn in one["turns"]])
    return make_neutral_params().replace(
        global_orient=turns[0],
        body_pose=turns[1:],
        betas=one["betas"],
        # no keypoint is on the fingers
        left_hand_pose=pose_prior.make_relaxed_hand("left"),
        right_hand_pose=pose_prior.make_relaxed_hand("right"),
    )


def make_body_camera(one: dict[str, Any], focal_px: float, width_px: int, height_px: int) -> Camera:
    """Return the camera in which the body, kept at the origin, has the fitted position."""
    return Camera(
        focal_px=(focal_px, focal_px),
        center_px=(width_px / 2, height_px / 2),
        width_px=width_px,
        height_px=height_px,
        rotation=TO_CAMERA,
        translation=one["pelvis_cam"] - TO_CAMERA @ one["pelvis"],
    )
