"""Conversion between axis-angle vectors and rotation matrices, in numpy."""

import numpy as np
from jaxtyping import Float


def axis_angle_to_matrix(axis_angle: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    """Return rotation matrices (float64) of axis-angle vectors in radians (Rodrigues)."""
    vectors = np.asarray(axis_angle, dtype=np.float64)
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    # sinc keeps sin(a)/a and (1-cos a)/a^2 exact at zero
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    cross = np.cross(vectors[:, None, :], np.eye(3)).swapaxes(1, 2)
    return np.eye(3) + first * cross + second * (cross @ cross)


def matrix_to_axis_angle(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Return the axis-angle vector (radians, float64) of one rotation matrix, at most pi long."""
    # via the quaternion, starting with its largest component: stable at 0 and at pi
    m = np.asarray(rotation, dtype=np.float64)
    trace = np.trace(m)
    products = np.empty((4, 4))
    products[0, 0] = 1 + trace
    products[1:, 1:] = m + m.T + (1 - trace) * np.eye(3)
    products[0, 1:] = products[1:, 0] = (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1])
    largest = products[np.argmax(np.diag(products))]
    quaternion = largest / np.linalg.norm(largest)
    if quaternion[0] < 0:
        quaternion = -quaternion
    sine = np.linalg.norm(quaternion[1:])
    if sine < 1e-12:
        return 2 * quaternion[1:]
    return 2 * np.arctan2(sine, quaternion[0]) / sine * quaternion[1:]
