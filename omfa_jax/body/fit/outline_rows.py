"""Skin points that should lie on lines in the photo, as rows of the fit (point-to-plane ICP)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.fit.keypoint_projection import (
    BodyState,
    linearize_keypoints,
    project_keypoints,
)
from omfa_jax.body.fit.keypoints import BODY_JOINTS
from omfa_jax.body.fit.skeleton import Skeleton

# a fixed number, so that the fit is compiled once
NUM_POINTS = 48


class OutlinePoints(NamedTuple):
    """Skin points of one body, or of `b` with a leading axis.

    `rest`, `dirs` and `weights` are as in `Skeleton`. The point's projection, in focal lengths from
    the photo's centre, should have the product `targets` with the unit `normals`; `sureness` is 1
    over its standard deviation, 0 for points that are not used.
    """

    rest: Float[np.ndarray, "*b 48 3"]
    dirs: Float[np.ndarray, "*b 48 3 10"]
    weights: Float[np.ndarray, "*b 48 22"]
    normals: Float[np.ndarray, "*b 48 2"]
    targets: Float[np.ndarray, "*b 48"]
    sureness: Float[np.ndarray, "*b 48"]


def make_no_points(*batch: int) -> OutlinePoints:
    """Return points that say nothing."""
    shapes = ((3,), (3, 10), (BODY_JOINTS,), (2,), (), ())
    return OutlinePoints(*(np.zeros((*batch, NUM_POINTS, *shape)) for shape in shapes))


def compute_outline_rows(
    body: BodyState, skeleton: Skeleton, points: OutlinePoints
) -> Float[Array, "48"]:
    """Return the distances from the lines in standard deviations."""
    places = project_keypoints(body, _add_points(skeleton, points), _select_points())
    return jnp.asarray(points.sureness) * ((places * points.normals).sum(-1) - points.targets)


def linearize_outline(
    x: Float[Array, "79"], facing: Float[Array, "3 3"], skeleton: Skeleton, points: OutlinePoints
) -> tuple[Float[Array, "48"], Float[Array, "48 79"]]:
    """Return the rows of `compute_outline_rows` and their derivatives by x."""
    carried = _add_points(skeleton, points)
    places, by_x = linearize_keypoints(x, facing, carried, _select_points())
    sureness = jnp.asarray(points.sureness)
    rows = sureness * ((places * points.normals).sum(-1) - points.targets)
    return rows, sureness[:, None] * (by_x * points.normals[..., None]).sum(1)


def _add_points(skeleton: Skeleton, points: OutlinePoints) -> Skeleton:
    """Return the skeleton's joints with these points in place of its landmarks."""
    added = (points.rest, points.dirs, points.weights)
    return Skeleton(
        *(jnp.concatenate([a[:BODY_JOINTS], b]) for a, b in zip(skeleton, added, strict=True))
    )


def _select_points() -> Float[Array, "48 p"]:
    return jnp.eye(NUM_POINTS, BODY_JOINTS + NUM_POINTS, BODY_JOINTS)
