"""Projection of the 79 fitted parameters to 2D keypoints, and its derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.fit import pose_prior
from omfa_jax.body.fit.jax_rotations import exp_so3, matmul_small, right_jacobian
from omfa_jax.body.fit.skeleton import (
    Skeleton,
    compose_rotations,
    compute_carried_points,
    make_ancestor_matrix,
)

TURN, AT, DEPTH, BETAS, POSE = np.split(np.arange(79), (3, 5, 6, 16))
SIZE = 79
# body axes have y up and z to the front, camera axes y down and z into the image
TO_CAMERA = np.diag([1.0, -1.0, -1.0])
_FLIP = np.array([1.0, -1.0, -1.0], np.float32)
_NEAR_M = 0.1


class BodyState(NamedTuple):
    """The parameter vector x, unpacked; lengths are in metres.

    `w` are the deviations from the relaxed stance; `turns` are rotations relative to the parents
    (the first is the facing). The pelvis is at `pelvis_cam` in camera axes, at depth `distance`.
    """

    w: Float[Array, "21 3"]
    turns: Float[Array, "22 3 3"]
    betas: Float[Array, "10"]
    distance: Float[Array, ""]
    pelvis_cam: Float[Array, "3"]


def unpack_body(x: Float[Array, "79"], facing: Float[Array, "3 3"]) -> BodyState:
    """Return the body described by x.

    The entries of x: rotation from `facing` (3), pelvis in the image in focal lengths (2), log of
    its depth (1), betas (10), deviations w (63).
    """
    w = x[POSE].reshape(21, 3)
    # the logarithm keeps the distance positive and makes steps relative
    distance = jnp.exp(x[DEPTH[0]])
    facing = rotate_facing(x, facing)
    relaxed = exp_so3(jnp.asarray(pose_prior.RELAXED, jnp.float32))
    turns = jnp.concatenate([facing[None], matmul_small(relaxed, exp_so3(w))])
    return BodyState(w, turns, x[BETAS], distance, distance * jnp.append(x[AT], 1.0))


def rotate_facing(x: Float[Array, "79"], facing: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Return the pelvis's rotation in the world: `facing`, then the rotation in x."""
    return matmul_small(facing, exp_so3(x[TURN]))


def project_keypoints(
    body: BodyState, skeleton: Skeleton, ties: Float[Array, "k p"]
) -> Float[Array, "k 2"]:
    """Return the keypoints in the image, in focal lengths from its centre."""
    return _project(
        _pose_keypoints(compose_rotations(body.turns), body.betas, skeleton, ties), body
    )[0]


def linearize_keypoints(
    x: Float[Array, "79"],
    facing: Float[Array, "3 3"],
    skeleton: Skeleton,
    ties: Float[Array, "k p"],
) -> tuple[Float[Array, "k 2"], Float[Array, "k 2 79"]]:
    """Return the keypoints and their derivatives by x.

    The joints' part is the geometric Jacobian: a small rotation about an axis through a joint moves
    a point by the cross product of axis and lever arm. This costs a tenth of forward-mode
    differentiation.
    """
    body = unpack_body(x, facing)
    turned = compose_rotations(body.turns)
    count = len(turned)
    # a joint moves all of its descendants, by the sum of their skinning weights
    below = jnp.asarray(make_ancestor_matrix(count))
    each = compute_carried_points(skeleton, turned, body.betas)
    places = each[np.arange(count), np.arange(count)]
    weights = skeleton.weights[..., None] * each
    moved = jnp.einsum("kp,pia->kia", ties, weights)
    share = (ties @ skeleton.weights) @ below
    lever = jnp.einsum("kia,ij->kja", moved, below) - share[..., None] * places
    vectors = jnp.concatenate([x[TURN][None], body.w])
    axes = matmul_small(turned, right_jacobian(vectors))
    by_turns = jnp.cross(jnp.moveaxis(axes, -1, -2)[None], lever[:, :, None])
    by_betas = jax.jacfwd(lambda betas: _pose_keypoints(turned, betas, skeleton, ties))(body.betas)
    seen, in_camera = _project(moved.sum(1), body)
    by_turns = jnp.moveaxis(by_turns.reshape(len(ties), -1, 3), -1, 1)
    moves = _FLIP[:, None] * jnp.concatenate([by_turns, by_betas], -1)
    depth = in_camera[:, 2, None, None]
    by_points = (moves[:, :2] - seen[..., None] * moves[:, 2:]) / depth
    by_at = body.distance * jnp.eye(2) / depth
    by_depth = (body.pelvis_cam[:2] - seen * body.pelvis_cam[2])[..., None] / depth
    turn_part, pose_part = by_points[..., :3], by_points[..., 3 : 3 * count]
    beta_part = by_points[..., 3 * count :]
    return seen, jnp.concatenate([turn_part, by_at, by_depth, beta_part, pose_part], -1)


def _pose_keypoints(
    turned: Float[Array, "j 3 3"],
    betas: Float[Array, "10"],
    skeleton: Skeleton,
    ties: Float[Array, "k p"],
) -> Float[Array, "k 3"]:
    """Return the keypoints' positions on the body, in metres from the pelvis."""
    points = (skeleton.weights[..., None] * compute_carried_points(skeleton, turned, betas)).sum(1)
    return ties @ points


def _project(
    places: Float[Array, "k 3"], body: BodyState
) -> tuple[Float[Array, "k 2"], Float[Array, "k 3"]]:
    """Return positions on the body projected to the image, and in camera axes (metres)."""
    in_camera = places * _FLIP + body.pelvis_cam
    # a step may move a limb behind the camera, where the projection flips its sign
    in_camera = in_camera.at[:, 2].max(_NEAR_M)
    return in_camera[:, :2] / in_camera[:, 2:], in_camera
