"""Keypoint sets of detectors and data sets, and the position of each point on the body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.keypoints import joint_orders
from omfa_jax.body.landmarks.landmark_names import LANDMARK_NAMES
from omfa_jax.body.smplx_joints import EXTRA_JOINT_VERTICES, JOINT_INDEX
from omfa_jax.core.errors import OmfaError, make_unknown_name_error

BODY_JOINTS = 22

# points of face and feet; the free body's vertices are ordered to have them at the same indices
SMPLX_VERTICES = {
    name: vertex
    for name, vertex in EXTRA_JOINT_VERTICES.items()
    if name == "nose" or name.endswith(("_eye", "_ear", "_toe", "_heel"))
}
# skin point -> (joint, offset in the rest pose, metres to the left, up, front)
SKIN_NEAR_JOINTS = {
    "left_acromion": ("left_shoulder", (0.02, 0.06, 0.0)),
    "right_acromion": ("right_shoulder", (-0.02, 0.06, 0.0)),
    "left_hip_side": ("left_hip", (0.07, 0.0, 0.0)),
    "right_hip_side": ("right_hip", (-0.07, 0.0, 0.0)),
}
LANDMARKS = (*SMPLX_VERTICES, *SKIN_NEAR_JOINTS, "crown", "chin")
# the corners of the mouth: nearest vertices to the nose's tip and this offset
_MOUTH_FROM_NOSE = {"left_mouth": (0.024, -0.04, -0.02), "right_mouth": (-0.024, -0.04, -0.02)}
# point -> (joint, offset in the rest pose as above, the joint that moves it). BlazePose sees
# shoulders above the joint, elbows up the arm and knuckles towards the wrist: medians over
# synthetic people, whose joints are known. Its hips are at the joints.
_LEFT_POINTS = {
    "shoulder_top": ("shoulder", (0.0, 0.026, 0.0), "collar"),
    "elbow_bend": ("elbow", (-0.013, 0.0, 0.0), "shoulder"),
    "index_knuckle": ("index1", (-0.028, 0.0, 0.0), "wrist"),
    "pinky_knuckle": ("pinky1", (-0.02, 0.0, 0.0), "wrist"),
    "thumb_knuckle": ("thumb2", (0.0, 0.0, 0.0), "wrist"),
}
CARRIED_POINTS = {
    f"{side}_{name}": (f"{side}_{joint}", (sign * x, y, z), f"{side}_{carrier}")
    for side, sign in (("left", 1), ("right", -1))
    for name, (joint, (x, y, z), carrier) in _LEFT_POINTS.items()
}
BLAZEPOSE_POINTS = (*LANDMARKS, *_MOUTH_FROM_NOSE, *CARRIED_POINTS)


@dataclass(frozen=True)
class KeypointSet:
    """A detector's or data set's keypoints, in its order.

    `ties` gives each point's position on the body as the mean of joints or LANDMARKS; a point with
    an empty tuple is not used. `steady` are the keypoints that hardly move with arms and
    lower legs: they determine position and facing of the body. `torso` lists groups of which at
    least one point must be visible. `needs` maps a keypoint to the next one of the limb, without
    which it needs a higher confidence. `points` are the skin points that `ties` may name. `bones`
    are pairs of joints whose direction in depth the detector gives as well (`bone_depths`).
    """

    name: str
    ties: Mapping[str, tuple[str, ...]]
    steady: frozenset[str]
    torso: tuple[tuple[str, ...], ...]
    needs: Mapping[str, str]
    points: tuple[str, ...] = LANDMARKS
    bones: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keypoints in order."""
        return tuple(self.ties)

    def make_matrix(self) -> Float[np.ndarray, "k p"]:
        """Return the map from the 22 body joints and then `points` to the keypoints.

        The row of an unused keypoint is zero.
        """
        columns = [*list(JOINT_INDEX)[:BODY_JOINTS], *self.points]
        rows = np.zeros((len(self.ties), len(columns)))
        for row, places in zip(rows, self.ties.values(), strict=True):
            for place in places:
                row[columns.index(place)] = 1 / len(places)
        return rows


def _both_sides(*names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for name in names for side in ("right", "left"))


_FACE = ("nose", *_both_sides("eye", "ear"))
_TORSO = (("right_shoulder",), ("left_shoulder",), ("right_hip", "left_hip", "mid_hip"))
_STEADY = frozenset((*_FACE, "neck", "mid_hip", *_both_sides("shoulder", "hip")))
# in photos that end above the knees, OpenPose puts them at the edge or on a hem
_KNEES_NEED = {"right_knee": "right_ankle", "left_knee": "left_ankle"}
_MEANS = {"neck": _both_sides("shoulder"), "mid_hip": _both_sides("hip")}


def _make_ties(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {name: _MEANS.get(name, (name,)) for name in names}


BODY_25 = KeypointSet(
    "BODY_25",
    _make_ties(joint_orders.BODY_25),
    _STEADY,
    _TORSO,
    _KNEES_NEED,
)
BODY_18 = KeypointSet(
    "BODY_18",
    _make_ties(joint_orders.BODY_18),
    _STEADY,
    _TORSO,
    _KNEES_NEED,
)
# DeepFashion-MultiModal defines its 21 points by an image only (keypoints_definition.png in its
# repository). Sides are the person's own. Shoulders and hips are on the outline and tied to skin
# there, ankles on the instep; all of these are approximate. Armpits follow the cloth: not used.
DEEPFASHION = KeypointSet(
    "DeepFashion",
    {
        "crown": ("crown",),
        "right_ear": ("right_ear",),
        "right_eye": ("right_eye",),
        "left_eye": ("left_eye",),
        "left_ear": ("left_ear",),
        "nose": ("nose",),
        "chin": ("chin",),
        "right_shoulder": ("right_acromion",),
        "left_shoulder": ("left_acromion",),
        "right_armpit": (),
        "left_armpit": (),
        "right_elbow": ("right_elbow",),
        "left_elbow": ("left_elbow",),
        "right_wrist": ("right_wrist",),
        "right_hip": ("right_hip_side",),
        "left_hip": ("left_hip_side",),
        "left_wrist": ("left_wrist",),
        "right_knee": ("right_knee",),
        "left_knee": ("left_knee",),
        "right_ankle": ("right_ankle", "right_foot"),
        "left_ankle": ("left_ankle", "left_foot"),
    },
    frozenset((*_FACE, "crown", "chin", *_both_sides("shoulder", "hip"))),
    (("right_shoulder",), ("left_shoulder",), _both_sides("hip", "knee")),
    {},
)
_BLAZEPOSE_TIES = {
    name: place
    for side in ("left", "right")
    for name, place in {
        f"mouth_{side}": f"{side}_mouth",
        f"{side}_shoulder": f"{side}_shoulder_top",
        f"{side}_elbow": f"{side}_elbow_bend",
        f"{side}_pinky": f"{side}_pinky_knuckle",
        f"{side}_index": f"{side}_index_knuckle",
        f"{side}_thumb": f"{side}_thumb_knuckle",
        f"{side}_foot_index": f"{side}_big_toe",
    }.items()
}
BLAZEPOSE = KeypointSet(
    "BlazePose",
    {
        # the corners of the eyes would give the face the weight of the body
        name: () if name.endswith(("_inner", "_outer")) else (_BLAZEPOSE_TIES.get(name, name),)
        for name in LANDMARK_NAMES
    },
    frozenset((*_FACE, "mouth_left", "mouth_right", *_both_sides("shoulder", "hip"))),
    (("right_shoulder",), ("left_shoulder",), _both_sides("hip")),
    _KNEES_NEED,
    points=BLAZEPOSE_POINTS,
    bones=(
        *(
            (f"{side}_{start}", f"{side}_{end}")
            for start, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"))
            for side in ("left", "right")
        ),
        ("left_shoulder", "right_shoulder"),
        ("left_hip", "right_hip"),
    ),
)
KEYPOINT_SETS = {found.name: found for found in (BODY_25, BODY_18, DEEPFASHION, BLAZEPOSE)}


def get_keypoint_set(name: str) -> KeypointSet:
    """Return the set with this name; OmfaError, with the closest name, if there is none."""
    if name not in KEYPOINT_SETS:
        raise make_unknown_name_error("keypoint set", name, KEYPOINT_SETS)
    return KEYPOINT_SETS[name]


def find_landmark_vertices(model: BodyModel, names: Sequence[str] = LANDMARKS) -> dict[str, int]:
    """Return the model's vertex index for each of the skin points `names`, in order.

    Raises OmfaError if the model has too few vertices for smplx's indices.
    """
    highest = max(SMPLX_VERTICES.values())
    if len(model.v_template) <= highest:
        raise OmfaError(
            f"body model: it has {len(model.v_template)} vertices, but SMPL-X's nose and toes have"
            f" indices up to {highest}; give another --smplx-model"
        )
    found = dict(SMPLX_VERTICES)
    vertices = model.v_template.astype(float)
    for name, (joint, offset) in SKIN_NEAR_JOINTS.items():
        wanted = model.joint_template[JOINT_INDEX[joint]] + offset
        found[name] = int(np.argmin(((vertices - wanted) ** 2).sum(1)))
    x, y, z = vertices.T
    nose = vertices[SMPLX_VERTICES["nose"]]
    # the chin is the lowest point of the middle of the face, at most 5 cm behind the nose
    face = (np.abs(x) < 0.01) & (z > nose[2] - 0.05) & (y > nose[1] - 0.12)
    found["crown"] = int(np.argmax(np.where(np.abs(x) < 0.02, y, -np.inf)))
    found["chin"] = int(np.argmin(np.where(face, y, np.inf)))
    for name, offset in _MOUTH_FROM_NOSE.items():
        found[name] = int(np.argmin(((vertices - (nose + offset)) ** 2).sum(1)))
    return {name: found[name] for name in names}
