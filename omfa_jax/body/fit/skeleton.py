"""Posed joints and a few skin points of a body in JAX; a fit does not need the mesh."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.fit.jax_rotations import matmul_small, rotate
from omfa_jax.body.fit.keypoints import CARRIED_POINTS, LANDMARKS, find_landmark_vertices
from omfa_jax.body.smplx_joints import JOINT_INDEX, PARENTS


class Skeleton(NamedTuple):
    """The part of a body model that determines joints and landmarks; metres, float32.

    Points are the first `j` joints of SMPL-X (22 without face and fingers, or all 55), then the
    landmarks. `rest` are their positions on the template, `dirs` the derivatives by betas, and
    `weights` their skinning weights (a joint has weight 1 for itself).
    """

    rest: Float[Array, "p 3"]
    dirs: Float[Array, "p 3 10"]
    weights: Float[Array, "p j"]


def load_skeleton(
    model: BodyModel, joints: int = 22, points: Sequence[str] = LANDMARKS
) -> Skeleton:
    """Return the skeleton of a model's first `joints` joints and these points of `keypoints`.

    Other joints stay at rest relative to their parents, to which their weights are added.
    """
    names = [name for name in points if name not in CARRIED_POINTS]
    vertices = find_landmark_vertices(model, names)
    rows = [_load_point(model, vertices, name) for name in points]
    rest, dirs, weights = (np.stack(column) for column in zip(*rows, strict=True))
    for joint in range(len(PARENTS) - 1, joints - 1, -1):
        weights[:, PARENTS[joint]] += weights[:, joint]
    arrays = (
        np.concatenate([model.joint_template[:joints], rest]),
        np.concatenate([model.joint_dirs[:joints, :, :10], dirs]),
        np.concatenate([np.eye(joints), weights[:, :joints]]),
    )
    return Skeleton(*(jnp.asarray(array, jnp.float32) for array in arrays))


def _load_point(model: BodyModel, vertices: Mapping[str, int], name: str) -> tuple[np.ndarray, ...]:
    """Return a point's rest position, its derivatives by betas, and its weights, in float64."""
    if name in vertices:
        index = vertices[name]
        arrays = (model.v_template[index], model.shapedirs[index], model.weights[index])
        return tuple(array.astype(np.float64) for array in arrays)
    joint, offset, carrier = CARRIED_POINTS[name]
    index = JOINT_INDEX[joint]
    weights = np.eye(len(PARENTS))[JOINT_INDEX[carrier]]
    return model.joint_template[index] + offset, model.joint_dirs[index, :, :10], weights


def make_ancestor_matrix(count: int) -> Float[np.ndarray, "j j"]:
    """Return 1 where the column's joint is the row's joint or one of its ancestors, else 0."""
    found = np.eye(count, dtype=np.float32)
    for joint in range(1, count):
        found[joint] += found[PARENTS[joint]]
    return found


def compose_rotations(turns: Float[Array, "j 3 3"]) -> Float[Array, "j 3 3"]:
    """Return world rotations of the joints from those relative to their parents."""
    # pointer jumping: each round doubles the number of ancestors in each product, so 4 rounds cover
    # depths up to 16; the identity at the end stands for ancestors above the pelvis
    above = np.append(np.where(PARENTS[: len(turns)] < 0, len(turns), PARENTS[: len(turns)]), -1)
    turned = jnp.concatenate([turns, jnp.eye(3)[None]])
    for _ in range(4):
        turned = matmul_small(turned[above], turned)
        above = above[above]
    return turned[:-1]


def compute_joint_positions(
    turned: Float[Array, "j 3 3"], rest: Float[Array, "j 3"]
) -> Float[Array, "j 3"]:
    """Return posed joint positions, metres from the pelvis, from the shaped body's rest joints."""
    above = np.maximum(PARENTS[: len(rest)], 0)
    bones = rotate(turned[above], rest - rest[above])
    return jnp.asarray(make_ancestor_matrix(len(rest))) @ bones


def compute_carried_points(
    skeleton: Skeleton, turned: Float[Array, "j 3 3"], betas: Float[Array, "10"]
) -> Float[Array, "p j 3"]:
    """Return each point as moved by each joint alone, in metres from the pelvis."""
    rest = skeleton.rest + skeleton.dirs @ betas
    joints = rest[: len(turned)]
    return rotate(turned, rest[:, None] - joints) + compute_joint_positions(turned, joints)
