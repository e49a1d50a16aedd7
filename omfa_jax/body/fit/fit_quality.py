"""Quality of a fit, and the rules by which bad fits are rejected."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from omfa_jax.body.fit.keypoints import KeypointSet
from omfa_jax.body.fit.pose_prior import POSED_JOINTS
from omfa_jax.body.keypoints.joint_orders import MIN_CONFIDENCE, SURE_CONFIDENCE

EDGE_SHARE = 0.01
MIN_KEYPOINTS = 6
MAX_MEDIAN_OF_IMAGE = 0.03
MAX_MEAN_OF_BODY = 0.05
MAX_BEYOND_LIMITS_RAD = 0.35
MAX_LEAN_RAD = 1.0
# standard deviations of the model's shape components
MAX_BETA = 4.0


@dataclass(frozen=True)
class FitReport:
    """A fit's reprojection error over its trusted keypoints, and the verdict with its reason.

    `_of_image` and `_of_body` are fractions of the image's height and of the body's height in the
    image (that of the full standing body, even if only half of it is visible). Fields are saved
    by name in fit_report.json.
    """

    keypoints: int
    mean_px: float
    median_px: float
    median_of_image: float
    mean_of_body: float
    body_height_px: float
    accepted: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON: four significant digits, None for non-finite values."""
        return {
            name: _short(value) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def find_confident_keypoints(
    keypoints: KeypointSet, rows: Float[np.ndarray, "k 3"], size_px: Float[np.ndarray, "2"]
) -> Bool[np.ndarray, "k"]:
    """Return a mask of the rows (x px, y px, confidence) to use.

    These are tied to the body, have a confidence of at least 0.2, and are inside the image by 1% of
    its sides: detectors put cropped points at or beyond the edge, and missing ones at (0, 0). A
    knee without a trusted ankle needs a confidence of 0.5.
    """
    edge = EDGE_SHARE * size_px
    # a row's sum is finite only if all of its numbers are
    finite = np.isfinite(rows.sum(axis=1))
    safe = np.where(finite[:, None], rows, 0)
    x, y = safe[:, 0], safe[:, 1]
    across = (x > edge[0]) & (x < size_px[0] - edge[0])
    inside = across & (y > edge[1]) & (y < size_px[1] - edge[1])
    tied = np.array([bool(places) for places in keypoints.ties.values()])
    seen = tied & finite & inside & (safe[:, 2] >= MIN_CONFIDENCE)
    for name, needed in keypoints.needs.items():
        row, other = keypoints.names.index(name), keypoints.names.index(needed)
        seen[row] &= seen[other] or safe[row, 2] >= SURE_CONFIDENCE
    return seen


def find_missing_parts(keypoints: KeypointSet, seen: Bool[np.ndarray, "k"]) -> str:
    """Return why the keypoints to use are too few for a fit, "" if they are enough."""
    found = {name for name, there in zip(keypoints.names, seen, strict=True) if there}
    lacking = [group for group in keypoints.torso if not found & set(group)]
    if seen.sum() < MIN_KEYPOINTS:
        return f"{seen.sum()} confident keypoints, at least {MIN_KEYPOINTS} are needed"
    if lacking:
        return f"torso not visible: no confident {' and no '.join(map(' or '.join, lacking))}"
    return ""


def judge_fit(
    keypoints: KeypointSet,
    *,
    errors_px: Float[np.ndarray, "k"],
    seen: Bool[np.ndarray, "k"],
    size_px: tuple[int, int],
    body_height_px: float,
    beyond_limits_rad: Float[np.ndarray, "21 3"],
    betas: Float[np.ndarray, "10"],
    facing: Float[np.ndarray, "3 3"],
) -> FitReport:
    """Return the report of one fit.

    Reasons for rejection, in this order: fewer than 6 keypoints, or no torso; a median error over
    3% of the image's height, or a mean error over 5% of the body's; an implausible body, with a
    joint more than 0.35 rad beyond its limits, a lean of more than 1 rad, or a beta beyond 4.
    """
    # a photo without keypoints gets a report too; its errors are infinite
    errors = errors_px[seen] if seen.any() else np.array([np.inf])
    mean, median = float(errors.mean()), float(np.median(errors))
    # the median tells whether most points fit, the mean whether a limb is far off
    of_image, of_body = median / size_px[1], mean / body_height_px
    worst = np.unravel_index(beyond_limits_rad.argmax(), beyond_limits_rad.shape)
    # facing[1, 1] is the cosine between the body's up and the world's
    lean = float(np.arccos(np.clip(facing[1, 1], -1, 1)))
    reason = ""
    if missing := find_missing_parts(keypoints, seen):
        reason = missing
    elif not np.isfinite([mean, body_height_px, lean]).all():
        reason = "the fit is not finite"
    elif of_image > MAX_MEDIAN_OF_IMAGE:
        limit = f"{MAX_MEDIAN_OF_IMAGE:.0%} of the image's height"
        reason = f"median error {of_image:.1%}, over {limit}"
    elif of_body > MAX_MEAN_OF_BODY:
        reason = f"mean error {of_body:.1%}, over {MAX_MEAN_OF_BODY:.0%} of the body's height"
    elif beyond_limits_rad[worst] > MAX_BEYOND_LIMITS_RAD:
        angle = np.rad2deg(beyond_limits_rad[worst])
        reason = (
            f"implausible pose: {POSED_JOINTS[worst[0]]} is {angle:.0f} degrees beyond its limit"
        )
    elif lean > MAX_LEAN_RAD:
        reason = f"implausible pose: the body leans by {np.rad2deg(lean):.0f} degrees"
    elif np.abs(betas).max() > MAX_BETA:
        reason = f"implausible shape: a beta of {np.abs(betas).max():.1f}"
    return FitReport(
        keypoints=int(seen.sum()),
        mean_px=mean,
        median_px=median,
        median_of_image=of_image,
        mean_of_body=of_body,
        body_height_px=body_height_px,
        accepted=not reason,
        reason=reason,
    )


def _short(value: float) -> float | None:
    # JSON has neither NaN nor infinity
    return float(f"{value:.4g}") if np.isfinite(value) else None
