"""The pose prior of the fit: a relaxed stance, and stiffness and limits of every joint.

It was written by hand from how people stand and how joints bend, without data or licensed files.
A joint's rotation is its relaxed one times exp(w); w is optimized and penalized quadratically.
Numbers are in radians for the left side; the right side is mirrored.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.smplx_joints import JOINTS

_FREE = (-np.inf, np.inf)


class Stance(NamedTuple):
    """One type of joint: relaxed axis-angle, standard deviations of w, and limits of w."""

    relaxed: tuple[float, float, float]
    spread: tuple[float, float, float]
    limits: tuple[tuple[float, float], ...] = (_FREE, _FREE, _FREE)


# In the rest pose the left arm points to +x and the legs to -y: x moves a leg backwards and twists
# an arm, z lifts an arm, -y bends the left elbow forwards, +x bends the knee backwards.
STANCES = {
    "hip": Stance((-0.03, 0.0, -0.04), (0.35, 0.2, 0.15), ((-2.2, 0.35), (-0.8, 0.8), (-0.7, 0.9))),
    "knee": Stance((0.1, 0.0, 0.0), (0.5, 0.04, 0.04), ((-0.1, 2.3), _FREE, _FREE)),
    "ankle": Stance((-0.05, 0.0, 0.0), (0.2, 0.1, 0.1), ((-0.6, 0.6), (-0.4, 0.4), (-0.4, 0.4))),
    "foot": Stance((0.0, 0.0, 0.0), (0.1, 0.05, 0.05)),
    "spine1": Stance((0.02, 0.0, 0.0), (0.1, 0.08, 0.08)),
    "spine2": Stance((0.0, 0.0, 0.0), (0.1, 0.08, 0.08)),
    "spine3": Stance((0.0, 0.0, 0.0), (0.08, 0.08, 0.08)),
    "neck": Stance((0.0, 0.0, 0.0), (0.15, 0.2, 0.12), ((-0.6, 0.6), (-0.8, 0.8), (-0.5, 0.5))),
    "head": Stance((0.0, 0.0, 0.0), (0.15, 0.2, 0.12), ((-0.5, 0.5), (-0.8, 0.8), (-0.5, 0.5))),
    "collar": Stance((0.0, 0.0, -0.08), (0.05, 0.1, 0.1), (_FREE, (-0.4, 0.4), (-0.3, 0.5))),
    "shoulder": Stance((0.0, 0.0, -1.15), (0.3, 0.7, 0.8), ((-1.2, 1.2), (-2.4, 1.0), _FREE)),
    "elbow": Stance((0.0, -0.3, 0.0), (0.6, 0.8, 0.06), (_FREE, (-2.3, 0.3), _FREE)),
    "wrist": Stance((0.0, 0.0, 0.0), (0.15, 0.15, 0.15)),
}
LIMIT_SPREAD = 0.05
UPRIGHT_SPREAD = (0.2, 0.08)
PALM_SPREAD = 0.15
TRUNK_SPREAD = 0.07
DEPTH_SPREAD = 0.3
RELAXED_CURL = 0.2
POSED_JOINTS = JOINTS[1:22]


def _make_table(field: str) -> Float[np.ndarray, "21 3 ..."]:
    rows = []
    for joint in POSED_JOINTS:
        row = np.array(getattr(STANCES[joint.removeprefix("left_").removeprefix("right_")], field))
        if joint.startswith("right_") and field == "relaxed":
            row = row * (1, -1, -1)
        if joint.startswith("right_") and field == "limits":
            row = np.stack([row[0], -row[1, ::-1], -row[2, ::-1]])
        rows.append(row)
    return np.stack(rows)


RELAXED = _make_table("relaxed")
SPREAD = _make_table("spread")
LIMITS = _make_table("limits")
# Starts of the arms: hanging, or with the elbow bent and back, as for a hand on the hip.
ARM_STARTS = np.zeros((2, 21, 3))
_SHOULDERS = [POSED_JOINTS.index(f"{side}_shoulder") for side in ("left", "right")]
_ELBOWS = [POSED_JOINTS.index(f"{side}_elbow") for side in ("left", "right")]
ARM_STARTS[1, _SHOULDERS, 1] = (0.5, -0.5)
ARM_STARTS[1, _ELBOWS, 1] = (-0.9, 0.9)
_SPINES = [POSED_JOINTS.index(f"spine{number}") for number in (1, 2, 3)]


def compute_limit_excess(w: Float[Array, "21 3"]) -> Float[Array, "21 3"]:
    """Return how far each angle exceeds its limits, in radians; 0 inside."""
    return jnp.maximum(w - LIMITS[..., 1], 0) + jnp.maximum(LIMITS[..., 0] - w, 0)


def compute_residuals(
    w: Float[Array, "21 3"],
    facing: Float[Array, "3 3"],
    betas: Float[Array, "10"],
    log_depth_change: Float[Array, ""],
) -> Float[Array, "n"]:
    """Return the prior's residuals in standard deviations; its energy is the sum of squares.

    `facing` is the pelvis's rotation in the world (y up): its lean is penalized, its yaw is not.
    """
    up = facing[:, 1]
    terms = [
        w / SPREAD,
        # the forearm cancels the twist of the upper arm, so that palms face the body
        (w[np.array(_SHOULDERS), 0] + w[np.array(_ELBOWS), 0]) / PALM_SPREAD,
        compute_limit_excess(w) / LIMIT_SPREAD,
        up[jnp.array([0, 2])] / jnp.array(UPRIGHT_SPREAD),
        # of a trunk seen from the front, its length hardly tells whether it leans to the camera;
        # -facing[1, 2] is the sine of the pelvis's pitch about the body's own axis
        (w[np.array(_SPINES), 0].sum() - facing[1, 2]) / TRUNK_SPREAD,
        betas,
        log_depth_change / DEPTH_SPREAD,
    ]
    return jnp.concatenate([jnp.ravel(term) for term in terms])


def make_relaxed_hand(side: str) -> Float[np.ndarray, "15 3"]:
    """Return axis-angles of slightly curled fingers in smplx's order; the thumb is straight."""
    curl = np.zeros((5, 3, 3))
    curl[:4, :, 2] = -RELAXED_CURL if side == "left" else RELAXED_CURL
    return curl.reshape(15, 3)
