"""A library of named target poses, stored as a JSON file that can be written by hand.

    {"hands_on_hips": {"left_arm": {"upper": [0.7, -0.7, -0.2], "fore": [-0.8, -0.5, 0.1]},
                       "right_arm": "left_arm"}, ...}

Every key is optional; the default is the rest pose with the arms down.
"turn_deg": rotation of the entire body to its own left. "lean_deg": [forwards, to its left],
distributed over the spine; "twist_deg": the chest to its left. "head_deg": [down, to its left,
tilt to its left]. "left_arm", "right_arm": directions of upper arm and forearm, x outwards, y up,
z to the front, of any length. "left_leg", "right_leg": direction of the thigh (straight down means
the rest pose's legs, slightly apart) and "knee_deg", the bend of the knee. The name of the other
side in place of an object mirrors that side. "joints": {joint: axis-angle in radians} overrides
everything else.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams, make_params_from_pose
from omfa_jax.body.camera import Camera, make_look_at_camera
from omfa_jax.body.limb_rotations import compute_arm_rotations, compute_leg_rotations
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_file

LIBRARY_FILE = Path(__file__).parents[1] / "assets" / "poses.json"

ARM_DOWN = {"upper": (0.3, -1.0, 0.0), "fore": (0.12, -1.0, 0.2)}
LEG_DOWN = {"thigh": (-0.04, -1.0, 0.0), "knee_deg": 4.0}
LIMBS = {"left_arm": ARM_DOWN, "right_arm": ARM_DOWN, "left_leg": LEG_DOWN, "right_leg": LEG_DOWN}
NUMBER_COUNTS = {"turn_deg": 1, "lean_deg": 2, "twist_deg": 1, "head_deg": 3}
FINGER_CURL = 0.2
# share of the image's height or width filled by the bodies in front of a studio camera
FILL_SHARE = 0.88
# focal length as a multiple of the image's longer side, that of a portrait lens
FOCAL_PER_SIDE = 1.6

Pose = Float[np.ndarray, "55 3"]


def load_pose_library(path: str | os.PathLike | None = None) -> dict[str, Pose]:
    """Return {name: axis-angle rotations in smplx's order}; None is the built-in library.

    The format is described at the top of this module. Raises OmfaError, naming pose and key, for
    anything else.
    """
    path = LIBRARY_FILE if path is None else require_any_file(path, "pose library", "--library")
    try:
        written = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise OmfaError(f"pose library {path}: not JSON ({error})") from None
    if not isinstance(written, dict) or not written:
        raise OmfaError(f"pose library {path}: expected {{name: pose}} with at least one pose")
    poses = {}
    for name, pose in written.items():
        try:
            if not name or name.startswith(".") or Path(name).name != name:
                raise OmfaError("expected a name that can be used as a file name, without a path")
            poses[name] = parse_pose(pose)
        except OmfaError as error:
            raise OmfaError(f"pose library {path}: {name}: {error}") from None
    return poses


def parse_pose(written: Mapping[str, Any]) -> Pose:
    """Return the rotations of one pose of the library; OmfaError if it is malformed."""
    if not isinstance(written, Mapping):
        raise OmfaError(f"expected an object, got {written!r:.40}")
    known = {**NUMBER_COUNTS, **LIMBS, "joints": None}
    for key in written:
        if key not in known:
            raise make_unknown_name_error("key of a pose", key, known)
    degrees = {
        k: _parse_numbers(k, written.get(k, np.zeros(n)), n) for k, n in NUMBER_COUNTS.items()
    }
    turn, twist = np.deg2rad(degrees["turn_deg"][0]), np.deg2rad(degrees["twist_deg"][0])
    forwards, aside = np.deg2rad(degrees["lean_deg"])
    nod, look, tilt = np.deg2rad(degrees["head_deg"])
    values = {"pelvis": np.array([0.0, turn, 0.0])}
    for joint in ("spine1", "spine2", "spine3"):
        values[joint] = np.array([forwards, twist, -aside]) / 3
    for joint in ("neck", "head"):
        values[joint] = np.array([nod, look, -tilt]) / 2
    for limb in LIMBS:
        values |= _parse_limb(limb, written)
    pose = np.zeros((55, 3))
    for joint, value in values.items():
        pose[JOINT_INDEX[joint]] = value
    joints = written.get("joints", {})
    if not isinstance(joints, Mapping):
        raise OmfaError(f"joints: expected an object, got {joints!r:.40}")
    for joint, value in joints.items():
        if joint not in JOINT_INDEX:
            raise make_unknown_name_error("joint", joint, JOINT_INDEX)
        pose[JOINT_INDEX[joint]] = _parse_numbers(f"joints.{joint}", value, 3)
    return pose


def _parse_limb(limb: str, written: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "3"]]:
    """Return the joints' rotations of one limb, mirrored in x for the right side."""
    side, kind = limb.split("_")
    said = written.get(limb, LIMBS[limb])
    if isinstance(said, str):
        other = f"{'right' if side == 'left' else 'left'}_{kind}"
        if said != other or isinstance(written.get(other, {}), str):
            raise OmfaError(f"{limb}: expected an object or {other!r}, got {said!r}")
        said = written.get(other, LIMBS[other])
    default = LIMBS[limb]
    if not isinstance(said, Mapping) or (odd := [key for key in said if key not in default]):
        what = said if not isinstance(said, Mapping) else odd
        raise OmfaError(f"{limb}: expected {' and '.join(default)}, got {what!r:.60}")
    if kind == "arm":
        upper, fore = (_parse_direction(f"{limb}.{k}", said.get(k, default[k])) for k in default)
        shoulder, elbow = compute_arm_rotations(upper, fore)
        values = {"collar": np.array([0, 0, -0.08 + 0.2 * max(0.0, upper[1])])}
        values |= {"shoulder": shoulder, "elbow": elbow}
        fingers = [f"{f}{k}" for f in ("index", "middle", "ring", "pinky") for k in (1, 2, 3)]
        values |= {finger: np.array([0, 0, -FINGER_CURL]) for finger in fingers}
    else:
        thigh = _parse_direction(f"{limb}.thigh", said.get("thigh", default["thigh"]))
        bend = _parse_numbers(f"{limb}.knee_deg", said.get("knee_deg", default["knee_deg"]), 1)
        hip, knee = compute_leg_rotations(thigh, float(np.deg2rad(bend[0])))
        values = {"hip": hip, "knee": knee}
    mirror = np.array([1, 1, 1]) if side == "left" else np.array([1, -1, -1])
    return {f"{side}_{joint}": value * mirror for joint, value in values.items()}


def place_pose(pose: Pose, params: BodyParams, camera: Camera) -> BodyParams:
    """Return the person of `params` in a library pose; the pose's front faces `camera`.

    Shape and pelvis position are kept, so that the pose is drawn where the person stands.
    """
    # world axes (left, up, front) of an upright person who looks at the camera
    up, front = -camera.rotation[1], -camera.rotation[2]
    facing = np.stack([np.cross(up, front), up, front], axis=1)
    turned = np.array(pose)
    turned[0] = matrix_to_axis_angle(facing @ axis_angle_to_matrix(pose[:1])[0])
    return make_params_from_pose(
        turned, betas=params.betas, expression=params.expression, transl=params.transl
    )


def make_studio_camera(
    model: BodyModel, bodies: Sequence[BodyParams], width_px: int, height_px: int
) -> Camera:
    """Return a camera looking along -z in which all of `bodies` together fill 88% of the image."""
    seen = np.concatenate([forward(model, body)[0] for body in bodies])
    low, high = seen.min(0), seen.max(0)
    focal = FOCAL_PER_SIDE * max(width_px, height_px)
    metres_per_px = max((high - low)[1] / height_px, (high - low)[0] / width_px) / FILL_SHARE
    target = (low + high) / 2
    # the nearest point, not the centre, must be inside the image
    eye = target + np.array([0, 0, focal * metres_per_px + (high - low)[2] / 2])
    return make_look_at_camera(eye, target, focal_px=focal, width_px=width_px, height_px=height_px)


def _parse_numbers(key: str, value: Any, count: int) -> Float[np.ndarray, "count"]:
    try:
        numbers = np.atleast_1d(np.asarray(value, float))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise OmfaError(f"{key}: expected {count} number{'s'[: count > 1]}, got {value!r:.60}")
    return numbers


def _parse_direction(key: str, value: Any) -> Float[np.ndarray, "3"]:
    vector = _parse_numbers(key, value, 3)
    length = np.linalg.norm(vector)
    if length < 1e-6:
        raise OmfaError(f"{key}: expected a direction, got {value!r:.60}")
    return vector / length
