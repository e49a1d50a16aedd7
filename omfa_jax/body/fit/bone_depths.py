"""Directions of bones in depth, which a detector with 3D landmarks gives beside its 2D points.

2D keypoints hardly say whether a forearm points to the camera or away from it.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.fit.keypoint_projection import BodyState
from omfa_jax.body.fit.keypoints import KeypointSet
from omfa_jax.body.fit.skeleton import Skeleton, compose_rotations, compute_joint_positions
from omfa_jax.body.keypoints.joint_orders import SURE_CONFIDENCE
from omfa_jax.body.smplx_joints import JOINT_INDEX


class DepthError(NamedTuple):
    """A detector gives `gain` * z / length, with a standard deviation of `spread`."""

    gain: float
    spread: float


# BlazePose's by the name of the bone's end without its side, measured on synthetic people of known
# joints: it sees trunks that are turned aside flatter than they are. That of arms is about a half
# as well, but their errors have long tails: corrected for it, elbows and wrists are 15 mm worse.
DEPTH_ERRORS = {
    "elbow": DepthError(1.0, 0.15),
    "wrist": DepthError(1.0, 0.15),
    "knee": DepthError(1.0, 0.15),
    "shoulder": DepthError(0.65, 0.12),
    "hip": DepthError(0.5, 0.13),
}


def read_bone_depths(
    known: KeypointSet, world_m: Float[np.ndarray, "k 3"], confidence: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return z / length of each bone of `known`, z away from the camera, and its weight.

    `world_m`: the detector's points in camera axes, metres. The depth is divided by its gain. The
    weight is the smaller confidence of the two ends over the spread of that; 0 if the confidence is
    below 0.5, or if an end is not finite.
    """
    ends = np.array([[known.names.index(name) for name in bone] for bone in known.bones])
    bones = world_m[ends[:, 1]] - world_m[ends[:, 0]]
    lengths = np.linalg.norm(bones, axis=1)
    sure = confidence[ends].min(axis=1)
    used = (sure >= SURE_CONFIDENCE) & np.isfinite(lengths) & (lengths > 0)
    depths = np.where(used, bones[:, 2], 0.0) / np.where(used, lengths, 1.0)
    gains, spreads = get_depth_errors(known)
    return depths / gains, np.where(used, sure, 0.0) * gains / spreads


def get_depth_errors(known: KeypointSet) -> tuple[Float[np.ndarray, "n"], ...]:
    """Return gain and spread of each bone of `known`."""
    rows = [
        DEPTH_ERRORS[end.removeprefix("left_").removeprefix("right_")] for _, end in known.bones
    ]
    gains, spreads = np.array(rows).T
    return gains, spreads


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
