"""Directions of bones in depth, which a detector with 3D landmarks gives beside its 2D points.

2D keypoints hardly say whether a forearm points to the camera or away from it.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.fit.keypoint_projection import BodyState
from omfa_jax.body.fit.keypoints import KeypointSet
from omfa_jax.body.fit.skeleton import Skeleton, compose_rotations, compute_joint_positions
from omfa_jax.body.keypoints.joint_orders import SURE_CONFIDENCE
from omfa_jax.body.smplx_joints import JOINT_INDEX

# standard deviation of z / length: BlazePose's on synthetic people with known joints
DEPTH_SPREAD = 0.15


def read_bone_depths(
    known: KeypointSet, world_m: Float[np.ndarray, "k 3"], confidence: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return z / length of each bone of `known`, z away from the camera, and its weight.

    `world_m`: the detector's points in camera axes, metres. The weight is the smaller confidence of
    the two ends over DEPTH_SPREAD; 0 if it is below 0.5, or if an end is not finite.
    """
    ends = np.array([[known.names.index(name) for name in bone] for bone in known.bones])
    bones = world_m[ends[:, 1]] - world_m[ends[:, 0]]
    lengths = np.linalg.norm(bones, axis=1)
    sure = confidence[ends].min(axis=1)
    used = (sure >= SURE_CONFIDENCE) & np.isfinite(lengths) & (lengths > 0)
    depths = np.where(used, bones[:, 2], 0.0) / np.where(used, lengths, 1.0)
    return depths, np.where(used, sure, 0.0) / DEPTH_SPREAD


def compute_bone_depths(
    body: BodyState, skeleton: Skeleton, known: KeypointSet
) -> Float[Array, "n"]:
    """Return z / length of each bone of the body, z away from the camera."""
    start, end = np.array([[JOINT_INDEX[name] for name in bone] for bone in known.bones]).T
    turned = compose_rotations(body.turns)
    rest = (skeleton.rest + skeleton.dirs @ body.betas)[: len(turned)]
    joints = compute_joint_positions(turned, rest)
    bones = joints[end] - joints[start]
    # the body's z points to the camera
    return -bones[:, 2] / jnp.linalg.norm(bones, axis=-1)
