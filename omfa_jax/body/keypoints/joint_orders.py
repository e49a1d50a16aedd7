"""The orders in which detectors write keypoints, and their conversion to OpenPose's BODY_25.

Orders: OpenPose's output documentation (BODY_25, BODY_18), COCO, Halpe-FullBody, COCO-WholeBody,
DWPose, which writes COCO-WholeBody with the body in BODY_18's order, and BlazePose. "" is a point
without a use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.body.landmarks.landmark_names import LANDMARK_NAMES

# a point below the first is a guess, one above the second is rarely wrong
MIN_CONFIDENCE, SURE_CONFIDENCE = 0.2, 0.5

_ARMS = (
    *("right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
)
_LEGS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
_EYES_AND_EARS = ("right_eye", "left_eye", "right_ear", "left_ear")
_LEFT_FOOT = ("left_big_toe", "left_small_toe", "left_heel")
_RIGHT_FOOT = ("right_big_toe", "right_small_toe", "right_heel")
FEET = (*_LEFT_FOOT, *_RIGHT_FOOT)
HAND_POINTS = 21
_FACE = ("",) * 68
_HANDS = tuple(
    name for side in ("left", "right") for name in (f"{side}_hand_root", *("",) * (HAND_POINTS - 1))
)

BODY_25 = ("nose", "neck", *_ARMS, "mid_hip", *_LEGS, *_EYES_AND_EARS, *FEET)
BODY_18 = ("nose", "neck", *_ARMS, *_LEGS, *_EYES_AND_EARS)
COCO_17 = ("nose",) + tuple(
    f"{side}_{name}"
    for name in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)
HALPE_26 = (
    *(*COCO_17, "crown", "neck", "mid_hip"),
    *(f"{side}_{name}" for name in ("big_toe", "small_toe", "heel") for side in ("left", "right")),
)
# of a foot BlazePose has the heel and the tip
BLAZEPOSE_33 = tuple(name.replace("_foot_index", "_big_toe") for name in LANDMARK_NAMES)


@dataclass(frozen=True)
class JointOrder:
    """The names of keypoints in order, "" for those that are not used."""

    title: str
    names: tuple[str, ...]


# by the number of rows, which is all that a file says
JOINT_ORDERS: Mapping[int, JointOrder] = {
    len(order.names): order
    for order in (
        JointOrder("COCO", COCO_17),
        JointOrder("BODY_18", BODY_18),
        JointOrder("BODY_25", BODY_25),
        JointOrder("Halpe", HALPE_26),
        JointOrder("BlazePose", BLAZEPOSE_33),
        JointOrder("COCO-WholeBody", (*COCO_17, *FEET, *_FACE, *_HANDS)),
        JointOrder("DWPose", (*BODY_18, *FEET, *_FACE, *_HANDS)),
        JointOrder("Halpe-FullBody", (*HALPE_26, *_FACE, *_HANDS)),
    )
}


def describe_orders() -> str:
    """Return the numbers of rows that can be used, with their names."""
    *first, last = (f"{count} ({order.title})" for count, order in JOINT_ORDERS.items())
    return f"{', '.join(first)} or {last}"


def to_body_25(points: Mapping[str, Float[np.ndarray, "3"]]) -> Float[np.ndarray, "25 3"]:
    """Return BODY_25's rows from (x, y, confidence) by name; absent points have confidence 0.

    The root of a hand stands for a wrist that was not found.
    """
    found = np.zeros((len(BODY_25), 3))
    for row, name in zip(found, BODY_25, strict=True):
        row[:] = points.get(name, 0.0)
        root = points.get(name.replace("_wrist", "_hand_root"))
        if row[2] < MIN_CONFIDENCE and root is not None and root[2] >= MIN_CONFIDENCE:
            row[:] = root
    return found
