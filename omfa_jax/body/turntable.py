"""Turntables: a body rotated about the vertical axis in even steps."""

import numpy as np

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.core.errors import OmfaError


def make_turntable(
    params: BodyParams, count: int, *, up: tuple[float, float, float] = (0.0, 1.0, 0.0)
) -> list[BodyParams]:
    """Return `count` copies of a body rotated about `up` in even steps of a full turn.

    The first is unchanged. The pelvis, about which SMPL-X rotates the body, stays in place. With
    `up` towards the head, the person turns to their own left. For bodies in camera axes, which have
    y down, give (0, -1, 0). Raises OmfaError for count < 1.
    """
    if count < 1:
        raise OmfaError(f"turntable: expected at least 1 view, got {count}")
    length = np.linalg.norm(up)
    if length == 0:
        raise OmfaError("turntable: the axis `up` must not be zero")
    # matrices, because axis-angle vectors of different axes do not add up
    facing = axis_angle_to_matrix(params.global_orient[None])[0]
    angles = 2 * np.pi * np.arange(1, count) / count
    turns = axis_angle_to_matrix(angles[:, None] * np.asarray(up) / length)
    return [
        params,
        *(params.replace(global_orient=matrix_to_axis_angle(turn @ facing)) for turn in turns),
    ]
