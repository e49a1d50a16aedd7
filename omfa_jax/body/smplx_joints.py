"""The 55 joints of SMPL-X in its order: names, parents, and the body part of each."""

import numpy as np

_FINGERS = ("index", "middle", "pinky", "ring", "thumb")

JOINTS: tuple[str, ...] = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2"),
    *("left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck"),
    *("left_collar", "right_collar", "head", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "jaw", "left_eye", "right_eye"),
    *(f"{side}_{f}{i}" for side in ("left", "right") for f in _FINGERS for i in (1, 2, 3)),
)

_BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
_HAND_PARENTS = tuple(
    wrist if knuckle == 0 else first + 3 * finger + knuckle - 1
    for wrist, first in ((20, 25), (21, 40))
    for finger in range(5)
    for knuckle in range(3)
)
PARENTS = np.array((*_BODY_PARENTS, 15, 15, 15, *_HAND_PARENTS), dtype=np.int32)

JOINT_INDEX: dict[str, int] = {name: index for index, name in enumerate(JOINTS)}


def get_part(joint: str) -> str:
    """Return the body part of a joint: fingers belong to the wrist, face joints to the head."""
    if joint in ("jaw", "left_eye", "right_eye"):
        return "head"
    side, _, rest = joint.partition("_")
    return f"{side}_wrist" if rest.startswith(_FINGERS) else joint


PARTS: tuple[str, ...] = tuple(dict.fromkeys(get_part(joint) for joint in JOINTS))
JOINT_PARTS = np.array([PARTS.index(get_part(joint)) for joint in JOINTS], dtype=np.int32)

# vertices that smplx reports as extra joints, at fixed indices whatever the model
EXTRA_JOINT_VERTICES: dict[str, int] = {
    "nose": 9120,
    "right_eye": 9929,
    "left_eye": 9448,
    "right_ear": 616,
    "left_ear": 6,
    "left_thumb": 5361,
    "left_index": 4933,
    "left_middle": 5058,
    "left_ring": 5169,
    "left_pinky": 5286,
    "right_thumb": 8079,
    "right_index": 7669,
    "right_middle": 7794,
    "right_ring": 7905,
    "right_pinky": 8022,
    "left_big_toe": 5770,
    "left_small_toe": 5780,
    "left_heel": 8846,
    "right_big_toe": 8463,
    "right_small_toe": 8474,
    "right_heel": 8635,
}
