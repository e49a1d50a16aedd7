"""Joint rotations of arms and legs from the directions of their bones."""

import numpy as np
from jaxtyping import Float

from omfa_jax.body.rotations import matrix_to_axis_angle


def compute_arm_rotations(
    upper: Float[np.ndarray, "3"], fore: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return axis-angles of shoulder and elbow that turn the rest pose's +x arm to both directions.

    The twist of the upper arm is between none and the one that makes the elbow a pure hinge;
    skinning creases at the shoulder with more.
    """
    hinge = -np.cross(upper, fore)
    hinge /= max(np.linalg.norm(hinge), 1e-6)
    resting = np.array([-upper[1], upper[0], 0.0])
    resting /= max(np.linalg.norm(resting), 1e-6)
    # nearly opposite axes would cancel in the sum
    axis = resting if hinge @ resting < -0.9 else resting + hinge * 0.7
    shoulder = _make_frame(upper, axis)
    forearm = _make_frame(fore, shoulder[:, 1])
    return matrix_to_axis_angle(shoulder), matrix_to_axis_angle(shoulder.T @ forearm)


def _make_frame(
    x: Float[np.ndarray, "3"], near_y: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """Return the rotation with x column `x` and the y column closest to `near_y`."""
    y = near_y - (near_y @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def compute_leg_rotations(
    thigh: Float[np.ndarray, "3"], knee: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return axis-angles of hip and knee that turn the rest pose's thigh (-y) to `thigh`.

    `knee` is the bend in radians, 0 for a straight leg. The hip takes the shortest rotation, which
    keeps the kneecap in front.
    """
    down = np.array([0.0, -1.0, 0.0])
    axis = np.cross(down, thigh)
    sine, cosine = float(np.linalg.norm(axis)), float(down @ thigh)
    turned = np.zeros(3) if sine < 1e-9 else axis * (np.arctan2(sine, cosine) / sine)
    return turned, np.array([knee, 0.0, 0.0])
