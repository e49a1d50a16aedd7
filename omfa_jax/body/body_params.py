"""The parameters of one SMPL-X body: pose, shape, expression and translation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from omfa_jax.core.errors import OmfaError, make_unknown_name_error

PARAM_SHAPES: dict[str, tuple[int, ...]] = {
    "betas": (10,),
    "expression": (10,),
    "global_orient": (3,),
    "body_pose": (21, 3),
    "jaw_pose": (3,),
    "leye_pose": (3,),
    "reye_pose": (3,),
    "left_hand_pose": (15, 3),
    "right_hand_pose": (15, 3),
    "transl": (3,),
}

# the order of smplx's full_pose: the face is between body and hands
_POSE_ORDER = (
    *("global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose"),
    *("left_hand_pose", "right_hand_pose"),
)


@dataclass(frozen=True, eq=False, init=False)
class BodyParams:
    """SMPL-X parameters under smplx's names, float32; rotations are axis-angle in radians.

    `betas` and `expression` are in standard deviations, `transl` in metres. Hand poses are full
    rotations from the flat hand (smplx's `use_pca=False, flat_hand_mean=True`). All ten must be
    given by name. Lists and arrays of the right size but another shape, such as (1, 10) or (63,),
    are reshaped; anything else is an OmfaError.
    """

    betas: Float32[np.ndarray, "10"]
    expression: Float32[np.ndarray, "10"]
    global_orient: Float32[np.ndarray, "3"]
    body_pose: Float32[np.ndarray, "21 3"]
    jaw_pose: Float32[np.ndarray, "3"]
    leye_pose: Float32[np.ndarray, "3"]
    reye_pose: Float32[np.ndarray, "3"]
    left_hand_pose: Float32[np.ndarray, "15 3"]
    right_hand_pose: Float32[np.ndarray, "15 3"]
    transl: Float32[np.ndarray, "3"]

    def __init__(self, **parameters: Any) -> None:
        for name in parameters:
            if name not in PARAM_SHAPES:
                raise make_unknown_name_error("body parameter", name, PARAM_SHAPES)
        # no defaults: a forgotten hand or jaw would silently be in the rest pose
        for name, shape in PARAM_SHAPES.items():
            if name not in parameters:
                raise OmfaError(
                    f"body parameters: missing {name}; to set only some, call replace() on the"
                    " neutral parameters"
                )
            # the dataclass is frozen
            object.__setattr__(self, name, _check(name, parameters[name], shape))

    def get_full_pose(self) -> Float32[np.ndarray, "55 3"]:
        """Return all rotations in smplx's order: global, body, jaw, eyes, left hand, right hand."""
        return np.concatenate([getattr(self, name).reshape(-1, 3) for name in _POSE_ORDER])

    def replace(self, **changes: Any) -> "BodyParams":
        """Return a copy with some parameters changed."""
        return BodyParams(**(self.as_dict() | changes))

    def as_dict(self) -> dict[str, np.ndarray]:
        """Return the parameters by name, in the order of smplx's arguments."""
        return {name: getattr(self, name) for name in PARAM_SHAPES}


def make_neutral_params() -> BodyParams:
    """Return the mean body in the rest pose: all zeros."""
    return BodyParams(**{name: np.zeros(shape, np.float32) for name, shape in PARAM_SHAPES.items()})


def make_params_from_pose(pose: Float[np.ndarray, "55 3"], **others: Any) -> BodyParams:
    """Return parameters with the rotations of `pose` (smplx's order) and `others` by name."""
    sizes = [int(np.prod(PARAM_SHAPES[name])) // 3 for name in _POSE_ORDER]
    pieces = np.split(np.asarray(pose), np.cumsum(sizes)[:-1])
    return make_neutral_params().replace(**dict(zip(_POSE_ORDER, pieces, strict=True)), **others)


def _check(name: str, value: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise OmfaError(f"{name}: expected numbers of shape {shape}, got {value!r:.60}") from None
    if array.size != int(np.prod(shape)):
        raise OmfaError(f"{name}: expected shape {shape}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise OmfaError(f"{name}: expected finite numbers, got nan or inf")
    return array.reshape(shape)
