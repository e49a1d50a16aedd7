"""Posed joints and a few skin points of a body in JAX; a fit does not need the mesh."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.fit.jax_rotations import matmul_small, rotate
from omfa_jax.body.fit.keypoints import find_landmark_vertices
from omfa_jax.body.smplx_joints import PARENTS


class Skeleton(NamedTuple):
    """The part of a body model that determines joints and landmarks; metres, float32.

    Points are the first `j` joints of SMPL-X (22 without face and fingers, or all 55), then the
    landmarks. `rest` are their positions on the template, `dirs` the derivatives by betas, and
    `weights` their skinning weights (a joint has weight 1 for itself).
    """

    rest: Float[Array, "p 3"]
    dirs: Float[Array, "p 3 10"]
    weights: Float[Array, "p j"]


def load_skeleton(model: BodyModel, joints: int = 22) -> Skeleton:
    """Return the skeleton of a model's first `joints` joints.

    Other joints stay at rest relative to their parents, to which their weights are added.
    """
    ids = list(find_landmark_vertices(model).values())
    weights = model.weights[ids].astype(np.float64)
    for joint in range(len(PARENTS) - 1, joints - 1, -1):
        weights[:, PARENTS[joint]] += weights[:, joint]
    arrays = (
        np.concatenate([model.joint_template[:joints], model.v_template[ids]]),
        np.concatenate([model.joint_dirs[:joints, :, :10], model.shapedirs[ids]]),
        np.concatenate([np.eye(joints), weights[:, :joints]]),
    )
    return Skeleton(*(jnp.asarray(array, jnp.float32) for array in arrays))


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
