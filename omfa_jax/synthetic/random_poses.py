"""Random natural standing poses, generated from the directions of the arms."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from omfa_jax.body.body_params import BodyParams, make_params_from_pose
from omfa_jax.body.limb_rotations import compute_arm_rotations
from omfa_jax.body.smplx_joints import JOINT_INDEX

ARM_KINDS = {"down": 0.46, "hip": 0.2, "pocket": 0.1, "bent": 0.12, "up": 0.12}
FACING_SHARE = 0.85
FACING_YAW, TAIL_YAW = np.deg2rad(35), np.deg2rad(70)

# the left arm of the mean body in the rest pose (metres); it places hands on hips
_SHOULDER = np.array([0.181, 0.138, 0.026])
_UPPER_ARM_M = 0.284
_HIP_HAND = np.array([0.215, -0.2, 0.07])
_POCKET_HAND = np.array([0.225, -0.33, 0.1])


@dataclass(frozen=True, eq=False)
class RandomPose:
    """All joint rotations of a body, axis-angle in radians, in smplx order."""

    index: int
    rotations: Float32[np.ndarray, "55 3"]

    def make_params(self, betas: Float32[np.ndarray, "10"]) -> BodyParams:
        """Return the body in this pose with the given shape, at the origin."""
        return make_params_from_pose(self.rotations, betas=betas)


def sample_pose(rng: np.random.Generator, index: int) -> RandomPose:
    """Return a random pose; the yaw is mostly within 35 degrees, at most 70."""
    pose = np.zeros((55, 3))
    facing = rng.random() < FACING_SHARE
    yaw = rng.uniform(0, FACING_YAW) if facing else rng.uniform(FACING_YAW, TAIL_YAW)
    side = rng.choice([-1, 1])
    pose[JOINT_INDEX["pelvis"]] = (rng.uniform(-0.03, 0.03), side * yaw, rng.uniform(-0.04, 0.04))
    lean, twist, bow = rng.normal(0, 0.03), rng.normal(0, 0.04), rng.normal(0.01, 0.025)
    for name in ("spine1", "spine2", "spine3"):
        pose[JOINT_INDEX[name]] = (bow, twist, lean)
    # people turned aside look back towards the camera
    look = -0.35 * side * yaw + rng.normal(0, 0.12)
    pose[JOINT_INDEX["neck"]] = (rng.normal(0, 0.04), 0.5 * look, rng.normal(0, 0.03))
    pose[JOINT_INDEX["head"]] = (rng.normal(0, 0.05), 0.5 * look, rng.normal(0, 0.04) - lean)
    names, shares = list(ARM_KINDS), list(ARM_KINDS.values())
    kinds = [names[rng.choice(len(names), p=shares)] for _ in range(2)]
    # often the same on both sides, but never both arms up
    if rng.random() < 0.35 or kinds == ["up", "up"]:
        kinds[1] = kinds[0] if kinds[0] != "up" else "down"
    for name, kind in zip(("left", "right"), kinds, strict=True):
        _pose_arm(rng, pose, name, kind)
        _pose_leg(rng, pose, name)
    return RandomPose(index, pose.astype(np.float32))


def _pose_leg(rng: np.random.Generator, pose: Float[np.ndarray, "55 3"], name: str) -> None:
    sign = 1 if name == "left" else -1
    pose[JOINT_INDEX[f"{name}_hip"]] = (rng.uniform(-0.15, 0.05), 0, sign * rng.uniform(-0.12, 0))
    pose[JOINT_INDEX[f"{name}_knee"]] = (rng.uniform(0, 0.2), 0, 0)


def _pose_arm(
    rng: np.random.Generator, pose: Float[np.ndarray, "55 3"], name: str, kind: str
) -> None:
    upper, fore = _arm_directions(rng, kind)
    shoulder, elbow = compute_arm_rotations(upper, fore)
    lift = 0.18 if kind == "up" and upper[1] > 0 else rng.uniform(-0.12, -0.04)
    values = {"collar": np.array([0, 0, lift]), "shoulder": shoulder, "elbow": elbow}
    values["wrist"] = rng.normal(0, 0.08, 3)
    curl = rng.uniform(0.08, 0.3)
    for finger in ("index", "middle", "ring", "pinky"):
        for knuckle in (1, 2, 3):
            values[f"{finger}{knuckle}"] = np.array([0, 0, -curl])
    # The values are for the left arm. Mirroring in x keeps the x component of a rotation vector and
    # negates the others.
    mirror = np.array([1, 1, 1]) if name == "left" else np.array([1, -1, -1])
    for joint, value in values.items():
        pose[JOINT_INDEX[f"{name}_{joint}"]] = value * mirror


def _arm_directions(
    rng: np.random.Generator, kind: str
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Return unit vectors along the left upper arm and forearm; x outwards, y up, z forward."""
    if kind == "down":
        upper = _direction(rng.uniform(0.26, 0.44), rng.uniform(-0.12, 0.2))
        return upper, _direction(rng.uniform(0.06, 0.26), rng.uniform(0.12, 0.5))
    if kind == "bent":
        upper = _direction(rng.uniform(0.28, 0.42), rng.uniform(-0.15, 0.1))
        fore = np.array([rng.uniform(-0.55, 0.1), rng.uniform(-0.4, 0.25), 0.75])
        return upper, fore / np.linalg.norm(fore)
    if kind == "up":
        if rng.random() < 0.5:
            upper = _direction(rng.uniform(0.3, 0.45), rng.uniform(0, 0.25))
            fore = np.array([rng.uniform(-0.05, 0.2), 0.9, rng.uniform(0.25, 0.5)])
        else:
            upper = _direction(np.pi - rng.uniform(0.5, 0.75), rng.uniform(0.0, 0.15))
            fore = np.array([rng.uniform(-0.75, -0.45), 0.5, rng.uniform(-0.15, 0.1)])
        return upper, fore / np.linalg.norm(fore)
    hand = _HIP_HAND if kind == "hip" else _POCKET_HAND
    sideways = rng.uniform(0.6, 0.8) if kind == "hip" else rng.uniform(0.36, 0.5)
    upper = _direction(sideways, -rng.uniform(0.2, 0.4))
    fore = hand + rng.normal(0, 0.012, 3) - (_SHOULDER + _UPPER_ARM_M * upper)
    return upper, fore / np.linalg.norm(fore)


def _direction(sideways: float, forward: float) -> Float[np.ndarray, "3"]:
    """Return the unit vector that deviates from straight down by two angles (radians)."""
    vector = np.array([np.sin(sideways), -np.cos(sideways), np.sin(forward)])
    return vector / np.linalg.norm(vector)
