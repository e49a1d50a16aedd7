"""The stages of one photo's fit: where the body is, its pose and shape, and then its outline."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.fit import pose_prior
from omfa_jax.body.fit.bone_depths import compute_bone_depths
from omfa_jax.body.fit.jax_rotations import exp_so3
from omfa_jax.body.fit.keypoint_projection import (
    AT,
    BETAS,
    DEPTH,
    POSE,
    SIZE,
    linearize_keypoints,
    project_keypoints,
    rotate_facing,
    unpack_body,
)
from omfa_jax.body.fit.keypoints import KeypointSet
from omfa_jax.body.fit.levenberg_marquardt import minimize
from omfa_jax.body.fit.outline_rows import OutlinePoints, compute_outline_rows, linearize_outline
from omfa_jax.body.fit.skeleton import Skeleton

BODY_HEIGHT_M = 1.7
_FAR_M = 1000.0


@dataclass(frozen=True)
class BodyFitSettings:
    """Settings of the fit. Spreads are fractions of the body's height in the image.

    The focal length of a photo is unknown. It is assumed to be `focal_per_side` times the longer
    side (2.5 is a 90 mm lens on 35 mm film, common in studios), with the principal point at the
    centre. `yaws_deg` are the initial facings (0: to the camera), of which the `num_kept` best are
    refined, with each outlier scale of `outlier_spreads` for `steps` steps. An outline moves the
    best of them in `outline_steps` steps.
    """

    focal_per_side: float = 2.5
    keypoint_spread: float = 0.01
    yaws_deg: tuple[float, ...] = (0.0, 180.0, 60.0, -60.0, 120.0, -120.0)
    num_kept: int = 2
    facing_steps: int = 15
    facing_outlier_spread: float = 0.15
    steps: int = 15
    outlier_spreads: tuple[float, ...] = (0.15, 0.06)
    outline_steps: int = 8


class FitPhoto(NamedTuple):
    """One photo's keypoints (pixels from the centre over focal length, weights in [0, 1]), depths.

    `depths`, `depth_weights`: those of the detector's bones, None for a set without bones.
    """

    places: Float[Array, "k 2"]
    weights: Float[Array, "k"]
    depths: Any
    depth_weights: Any


class FitTarget(NamedTuple):
    """What bodies are compared with: the keypoint set, its points on the body, the settings."""

    known: KeypointSet
    skeleton: Skeleton
    ties: Float[Array, "k p"]
    steady: Float[Array, "k"]
    settings: BodyFitSettings


def solve(photo: FitPhoto, *, target: FitTarget) -> dict[str, Array]:
    """Return one photo's best fit without an outline, see `_describe`."""
    settings = target.settings
    # several starts: 2D keypoints leave local optima, such as the opposite facing
    yaws = np.deg2rad(settings.yaws_deg)[:, None] * np.array([0.0, 1.0, 0.0])
    facings = exp_so3(jnp.asarray(yaws, jnp.float32))
    seen = photo.weights * target.steady
    starts = jax.vmap(lambda facing: _place_start(photo, seen, facing, target))(facings)
    # the first stage frees facing, position and depth, the entries of x before the betas
    shares = np.full(settings.facing_steps, settings.facing_outlier_spread)
    # costs of different starts are comparable only in one unit: that of the first start
    placed, values = jax.vmap(
        lambda x, facing: _minimize(
            photo._replace(weights=seen), x, facing, starts[0], BETAS[0], shares, target
        )
    )(starts, facings)
    best = jnp.argsort(values)[: settings.num_kept]
    # one base for all starts, so that the costs compared at the end have one unit
    base = placed[best[0]]
    # each kept start is tried with each start of the arms, which end in different optima
    arms = jnp.asarray(pose_prior.ARM_STARTS, jnp.float32).reshape(-1, len(POSE))
    x = jnp.repeat(placed[best], len(arms), axis=0)
    x = x.at[:, POSE].set(jnp.tile(arms, (settings.num_kept, 1)))
    facing = jnp.repeat(facings[best], len(arms), axis=0)
    shares = np.repeat(settings.outlier_spreads, settings.steps)
    x, values = jax.vmap(lambda x, facing: _minimize(photo, x, facing, base, SIZE, shares, target))(
        x, facing
    )
    winner = jnp.argmin(values)
    return _describe(x[winner], facing[winner], base, target)


def refine(
    photo: FitPhoto,
    outline: OutlinePoints,
    x: Float[Array, "79"],
    facing: Float[Array, "3 3"],
    base: Float[Array, "79"],
    *,
    target: FitTarget,
) -> dict[str, Array]:
    """Return the fit that continues from `x`, with points of its outline on lines."""
    settings = target.settings
    shares = np.full(settings.outline_steps, settings.outlier_spreads[-1])
    x, _ = _minimize(photo, x, facing, base, SIZE, shares, target, outline)
    return _describe(x, facing, base, target)


def _describe(x: Array, facing: Array, base: Array, target: FitTarget) -> dict[str, Array]:
    """Return BodyState's fields, the keypoints, and what `refine` continues from."""
    body = unpack_body(x, facing)
    found = project_keypoints(body, target.skeleton, target.ties)
    # the fit places the pelvis, whose rest position depends on the shape; a camera needs both
    pelvis = target.skeleton.rest[0] + target.skeleton.dirs[0] @ body.betas
    start = {"x": x, "facing": facing, "base": base}
    return body._asdict() | {"keypoints": found, "pelvis": pelvis} | start


def _minimize(
    photo: FitPhoto,
    start: Array,
    facing: Array,
    base: Array,
    free: int,
    shares: np.ndarray,
    target: FitTarget,
    outline: OutlinePoints | None = None,
) -> tuple[Array, Array]:
    """Optimize the first `free` entries of x, with one step for each outlier share."""
    known, skeleton, ties, _, settings = target
    # the unit of errors is a fraction of the body's height in the image, as given by `base`
    unit = settings.keypoint_spread * BODY_HEIGHT_M / jnp.exp(base[DEPTH[0]])

    def extend(y: Array) -> Array:
        return jnp.concatenate([y, start[free:]])

    def before(y: Array) -> Array:
        x = extend(y)
        w, drift = x[POSE].reshape(21, 3), (x - base)[DEPTH[0]]
        rows = pose_prior.compute_residuals(w, rotate_facing(x, facing), x[BETAS], drift)
        if photo.depths is None:
            return rows
        depths = compute_bone_depths(unpack_body(x, facing), skeleton, known)
        return jnp.concatenate([rows, photo.depth_weights * (depths - photo.depths)])

    def residuals(y: Array) -> tuple[Array, Array]:
        body = unpack_body(extend(y), facing)
        found, plain = project_keypoints(body, skeleton, ties), before(y)
        if outline is not None:
            rows = compute_outline_rows(body, skeleton, outline)
            plain = jnp.concatenate([plain, rows])
        return (found - photo.places) / unit, plain

    def linearise(y: Array) -> tuple:
        found, by_x = linearize_keypoints(extend(y), facing, skeleton, ties)
        by_x = by_x[..., :free] / unit
        plain, plain_by_x = before(y), jax.jacfwd(before)(y)
        if outline is not None:
            rows, rows_by_x = linearize_outline(y, facing, skeleton, outline)
            plain = jnp.concatenate([plain, rows])
            plain_by_x = jnp.concatenate([plain_by_x, rows_by_x])
        return ((found - photo.places) / unit, plain), (by_x, plain_by_x)

    scales = jnp.asarray(shares / settings.keypoint_spread, jnp.float32)
    y, value = minimize(residuals, linearise, start[:free], photo.weights, scales)
    return extend(y), value


def _place_start(
    photo: FitPhoto, seen: Array, facing: Array, target: FitTarget
) -> Float[Array, "79"]:
    """Return the relaxed body, placed so that its keypoints have the photo's mean and spread."""
    far = jnp.zeros(SIZE).at[DEPTH].set(jnp.log(_FAR_M))
    flat = project_keypoints(unpack_body(far, facing), target.skeleton, target.ties) * _FAR_M
    # without any steady keypoint nothing is placed; judge_fit rejects such a photo
    share = seen / jnp.maximum(seen.sum(), 1e-6)
    middles = [share @ places for places in (flat, photo.places)]
    spreads = [
        jnp.sqrt((share @ (places - middle) ** 2).sum())
        for places, middle in zip((flat, photo.places), middles, strict=True)
    ]
    # the scale is 1 / depth: the body starts between 0.5 and 50 metres away
    scale = jnp.clip(spreads[1] / jnp.maximum(spreads[0], 1e-3), 0.02, 2.0)
    # far away the projection is linear, so scale and shift follow from mean and spread
    x = jnp.zeros(SIZE).at[AT].set(middles[1] - scale * middles[0])
    return x.at[DEPTH].set(-jnp.log(scale))
