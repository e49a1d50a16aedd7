"""The mapping from Anny's 104 bones to SMPL-X's 55 joints, and from its rest pose to a T-pose."""

import re

import numpy as np
from jaxtyping import Float

from omfa_jax.body.smplx_forward import compute_skinning_transforms, skin
from omfa_jax.body.smplx_joints import JOINT_INDEX, JOINTS, PARENTS

# bone name without its side -> joint name; the first full match wins
_MERGED = (
    (r"root|pelvis", "pelvis"),
    (r"upperleg\d+", "{side}hip"),
    (r"lowerleg\d+", "{side}knee"),
    (r"foot", "{side}ankle"),
    (r"toe.*", "{side}foot"),
    (r"spine05", "spine1"),
    (r"spine0[34]", "spine2"),
    (r"spine0[12]", "spine3"),
    (r"neck\d+", "neck"),
    (r"head", "head"),
    (r"eye", "{side}eye"),
    (r"clavicle|shoulder01", "{side}collar"),
    (r"upperarm\d+", "{side}shoulder"),
    (r"lowerarm\d+", "{side}elbow"),
    (r"wrist|metacarpal\d", "{side}wrist"),
    (r"finger1-(\d)", "{side}thumb{knuckle}"),
    (r"finger2-(\d)", "{side}index{knuckle}"),
    (r"finger3-(\d)", "{side}middle{knuckle}"),
    (r"finger4-(\d)", "{side}ring{knuckle}"),
    (r"finger5-(\d)", "{side}pinky{knuckle}"),
)

# joints that are not at the head of the first bone merged into them -> the bone that is
_PLACED = {
    "spine2": "spine04",
    "spine3": "spine02",
    "left_foot": "toe2-1.L",
    "right_foot": "toe2-1.R",
}

# limb joint -> (child joint it points to, direction in the T-pose for the left side)
_T_POSE = {
    "hip": ("knee", (0.10, -1.0, 0.0)),
    "knee": ("ankle", (-0.06, -1.0, -0.06)),
    "shoulder": ("elbow", (1.0, -0.08, -0.06)),
    "elbow": ("wrist", (1.0, 0.03, 0.0)),
    "wrist": ("middle1", (1.0, 0.0, 0.0)),
}


def joint_of_bone(bone: str) -> int:
    """Return the index of the SMPL-X joint that an Anny bone is merged into."""
    side = {".L": "left_", ".R": "right_"}.get(bone[-2:], "")
    name = bone[:-2] if side else bone
    for pattern, joint in _MERGED:
        match = re.fullmatch(pattern, name)
        if match:
            knuckle = match.group(1) if match.groups() else ""
            return JOINT_INDEX[joint.format(side=side, knuckle=knuckle)]
    raise ValueError(f"no row of _MERGED matches Anny's bone {bone!r}; add one")


def merge_weights(
    weights: Float[np.ndarray, "v b"], bones: tuple[str, ...]
) -> Float[np.ndarray, "v 55"]:
    """Return skinning weights of the joints: sums over their bones, rows summing to 1."""
    joint_by_bone = np.eye(len(JOINTS))[[joint_of_bone(bone) for bone in bones]]
    merged = weights @ joint_by_bone
    return merged / merged.sum(axis=1, keepdims=True)


def place_joints(
    bone_heads: Float[np.ndarray, "n b 3"], bones: tuple[str, ...]
) -> Float[np.ndarray, "n 55 3"]:
    """Return the joints' positions in the bodies' rest pose."""
    place = {joint_of_bone(bone): index for index, bone in reversed(list(enumerate(bones)))}
    place |= {JOINT_INDEX[joint]: bones.index(bone) for joint, bone in _PLACED.items()}
    joints = np.zeros((len(bone_heads), len(JOINTS), 3))
    for joint, bone in place.items():
        joints[:, joint] = bone_heads[:, bone]

    def middle(name: str) -> Float[np.ndarray, "n 3"]:
        sides = [JOINT_INDEX[f"{side}_{name}"] for side in ("left", "right")]
        return joints[:, sides].mean(axis=1)

    # SMPL-X's pelvis is between the hips and Anny's root is above them; the jaw has no bone
    head = joints[:, JOINT_INDEX["head"]]
    joints[:, JOINT_INDEX["pelvis"]] = (joints[:, JOINT_INDEX["pelvis"]] + middle("hip")) / 2
    joints[:, JOINT_INDEX["jaw"]] = head + 0.25 * (middle("eye") - head)
    return joints


def pose_as_t(
    vertices: Float[np.ndarray, "v 3"],
    joints: Float[np.ndarray, "55 3"],
    weights: Float[np.ndarray, "v 55"],
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "55 3"]]:
    """Return (vertices, joints) with the limbs rotated to SMPL-X's T-pose and the feet flat."""
    local = np.tile(np.eye(3), (len(JOINTS), 1, 1))
    turned = local.copy()
    for index, joint in enumerate(JOINTS):
        parent = turned[PARENTS[index]] if index else np.eye(3)
        side, _, limb = joint.partition("_")
        if limb in _T_POSE:
            child, direction = _T_POSE[limb]
            mirror = (1.0, 1.0, 1.0) if side == "left" else (-1.0, 1.0, 1.0)
            bone = joints[JOINT_INDEX[f"{side}_{child}"]] - joints[index]
            turn = _shortest_turn(parent @ bone, np.multiply(direction, mirror))
            local[index] = parent.T @ turn @ parent
        elif limb == "ankle":
            local[index] = parent.T
        turned[index] = parent @ local[index]
    transforms, posed = compute_skinning_transforms(local, joints, PARENTS)
    return skin(vertices, weights, transforms), posed


def _shortest_turn(
    source: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """Return the smallest rotation from one direction to another; they must not be opposite."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    half = (a + b) / np.linalg.norm(a + b)
    # two reflections make a rotation: in the half-way direction, then in the target
    return (2 * np.outer(b, b) - np.eye(3)) @ (2 * np.outer(half, half) - np.eye(3))
