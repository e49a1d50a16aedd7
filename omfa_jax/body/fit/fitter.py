"""Fit of SMPL-X parameters and cameras to the keypoints of many photos, in stages as in SMPLify.

The first stage finds the position and facing of the body from several starts, using keypoints that
hardly move with the limbs. The second fits pose and shape from the best of them, with a decreasing
outlier scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.fit import pose_prior
from omfa_jax.body.fit.bone_depths import compute_bone_depths
from omfa_jax.body.fit.fit_quality import find_confident_keypoints, judge_fit
from omfa_jax.body.fit.fit_result import FitResult, make_body_camera, make_body_params
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
from omfa_jax.body.fit.outline_rows import (
    OutlinePoints,
    compute_outline_rows,
    linearize_outline,
    make_no_points,
)
from omfa_jax.body.fit.skeleton import Skeleton, load_skeleton
from omfa_jax.core.errors import OmfaError

BODY_HEIGHT_M = 1.7
_FAR_M = 1000.0


@dataclass(frozen=True)
class BodyFitSettings:
    """Settings of the fit. Spreads are fractions of the body's height in the image.

    The focal length of a photo is unknown. It is assumed to be `focal_per_side` times the longer
    side (2.5 is a 90 mm lens on 35 mm film, common in studios), with the principal point at the
    centre. `yaws_deg` are the initial facings (0: to the camera), of which the `num_kept` best are
    refined, with each outlier scale of `outlier_spreads` for `steps` steps.
    """

    focal_per_side: float = 2.5
    keypoint_spread: float = 0.01
    yaws_deg: tuple[float, ...] = (0.0, 180.0, 60.0, -60.0, 120.0, -120.0)
    num_kept: int = 2
    facing_steps: int = 15
    facing_outlier_spread: float = 0.15
    steps: int = 15
    outlier_spreads: tuple[float, ...] = (0.15, 0.06)


class PhotoHints(NamedTuple):
    """What is known of photos beside their keypoints, for sets with `bones`.

    `depths`, `depth_weights`: those of `read_bone_depths`, zero where nothing is known. `outline`:
    points of the body's skin that should be on lines in the photo; the second stage uses them.
    """

    depths: Float[np.ndarray, "b n"]
    depth_weights: Float[np.ndarray, "b n"]
    outline: OutlinePoints


class _Photo(NamedTuple):
    """One photo's keypoints (pixels from the centre over focal length, weights in [0, 1]), hints.

    `hints`: those of one photo; None for a keypoint set without bones.
    """

    places: Float[Array, "k 2"]
    weights: Float[Array, "k"]
    hints: Any


class Fitter:
    """Fits bodies of one model to keypoints of one set; compiles once per batch size."""

    def __init__(
        self, model: BodyModel, known: KeypointSet, settings: BodyFitSettings | None = None
    ) -> None:
        self.keypoints = known
        self.settings = settings or BodyFitSettings()
        self._skeleton = load_skeleton(model, points=known.points)
        ties = known.make_matrix()
        steady = np.array([name in known.steady for name in known.names])
        solve = partial(
            _solve,
            known=known,
            skeleton=self._skeleton,
            ties=jnp.asarray(ties, jnp.float32),
            steady=jnp.asarray(steady, jnp.float32),
            settings=self.settings,
        )
        self._solve = jax.jit(jax.vmap(solve))

    def __call__(
        self,
        rows_px: Float[np.ndarray, "b k 3"],
        sizes_px: Sequence[tuple[int, int]],
        hints: PhotoHints | None = None,
    ) -> list[FitResult]:
        """Return the fits of `b` photos, from rows (x px, y px, confidence) and (width, height).

        Keypoints are weighted by squared confidence. Those below MIN_CONFIDENCE, at the edge of
        the image or at (0, 0), OpenPose's mark for missing ones, are ignored. Bad fits are returned
        as well; their reports have the reason of the rejection. Raises OmfaError for arrays of the
        wrong shape.
        """
        rows, sizes = np.asarray(rows_px, np.float64), np.asarray(sizes_px, np.float64)
        expected = (len(sizes), len(self.keypoints.ties), 3)
        if rows.shape != expected or sizes.shape != (len(rows), 2):
            raise OmfaError(
                f"keypoints: expected shape {expected} and one size (width, height) each,"
                f" got {rows.shape} and {sizes.shape}"
            )
        if hints is not None and not self.keypoints.bones:
            raise OmfaError(
                f"hints: the keypoint set {self.keypoints.name} has no bones; expected BlazePose"
            )
        seen = np.stack(
            [
                find_confident_keypoints(self.keypoints, *pair)
                for pair in zip(rows, sizes, strict=True)
            ]
        )
        focal = self.settings.focal_per_side * sizes.max(axis=1)
        # an ignored row may be NaN, which a weight of 0 would not remove
        places = np.where(
            seen[..., None], (rows[..., :2] - sizes[:, None] / 2) / focal[:, None, None], 0.0
        )
        weights = np.where(seen, np.clip(rows[..., 2], 0, 1) ** 2, 0.0)
        # always arrays for such a set, so that it is compiled once
        hints = (hints or self._make_no_hints(len(rows))) if self.keypoints.bones else None
        arrays = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), hints)
        found = jax.device_get(
            self._solve(
                _Photo(jnp.asarray(places, jnp.float32), jnp.asarray(weights, jnp.float32), arrays)
            )
        )
        fits = []
        for i, (width, height) in enumerate(sizes.astype(int).tolist()):
            one = {name: np.asarray(value[i], np.float64) for name, value in found.items()}
            pixels = one["keypoints"] * focal[i] + sizes[i] / 2
            report = judge_fit(
                self.keypoints,
                errors_px=np.linalg.norm(pixels - rows[i, :, :2], axis=1),
                seen=seen[i],
                size_px=(width, height),
                body_height_px=float(BODY_HEIGHT_M * focal[i] / one["distance"]),
                beyond_limits_rad=np.asarray(
                    pose_prior.compute_limit_excess(jnp.asarray(one["w"]))
                ),
                betas=one["betas"],
                facing=one["turns"][0],
            )
            fits.append(
                FitResult(
                    make_body_params(one),
                    make_body_camera(one, float(focal[i]), width, height),
                    report,
                )
            )
        return fits

    def _make_no_hints(self, count: int) -> PhotoHints:
        depths = np.zeros((count, len(self.keypoints.bones)))
        return PhotoHints(depths, depths, make_no_points(count))


def _solve(
    photo: _Photo,
    *,
    known: KeypointSet,
    skeleton: Skeleton,
    ties: Float[Array, "k p"],
    steady: Float[Array, "k"],
    settings: BodyFitSettings,
) -> dict[str, Array]:
    """Return one photo's best fit, as arrays."""
    # several starts: 2D keypoints leave local optima, such as the opposite facing
    yaws = np.deg2rad(settings.yaws_deg)[:, None] * np.array([0.0, 1.0, 0.0])
    facings = exp_so3(jnp.asarray(yaws, jnp.float32))
    seen = photo.weights * steady
    starts = jax.vmap(lambda facing: _place_start(photo, seen, facing, skeleton, ties))(facings)

    def refine(
        start: Array, facing: Array, base: Array, weights: Array, free: int, shares: np.ndarray
    ) -> tuple[Array, Array]:
        """Optimize the first `free` entries of x, with one step for each outlier share."""
        # the unit of errors is a fraction of the body's height in the image, as given by `base`
        unit = settings.keypoint_spread * BODY_HEIGHT_M / jnp.exp(base[DEPTH[0]])

        def extend(y: Array) -> Array:
            return jnp.concatenate([y, start[free:]])

        def before(y: Array) -> Array:
            x = extend(y)
            w, drift = x[POSE].reshape(21, 3), (x - base)[DEPTH[0]]
            rows = pose_prior.compute_residuals(w, rotate_facing(x, facing), x[BETAS], drift)
            if photo.hints is None:
                return rows
            depths = compute_bone_depths(unpack_body(x, facing), skeleton, known)
            rows = [rows, photo.hints.depth_weights * (depths - photo.hints.depths)]
            return jnp.concatenate(rows)

        def residuals(y: Array) -> tuple[Array, Array]:
            body = unpack_body(extend(y), facing)
            found, plain = project_keypoints(body, skeleton, ties), before(y)
            if photo.hints is not None and free == SIZE:
                rows = compute_outline_rows(body, skeleton, photo.hints.outline)
                plain = jnp.concatenate([plain, rows])
            return (found - photo.places) / unit, plain

        def linearise(y: Array) -> tuple:
            found, by_x = linearize_keypoints(extend(y), facing, skeleton, ties)
            by_x = by_x[..., :free] / unit
            plain, plain_by_x = before(y), jax.jacfwd(before)(y)
            if photo.hints is not None and free == SIZE:
                rows, rows_by_x = linearize_outline(y, facing, skeleton, photo.hints.outline)
                plain = jnp.concatenate([plain, rows])
                plain_by_x = jnp.concatenate([plain_by_x, rows_by_x])
            return ((found - photo.places) / unit, plain), (by_x, plain_by_x)

        scales = jnp.asarray(shares / settings.keypoint_spread, jnp.float32)
        y, value = minimize(residuals, linearise, start[:free], weights, scales)
        return extend(y), value

    # the first stage frees facing, position and depth, the entries of x before the betas
    shares = np.full(settings.facing_steps, settings.facing_outlier_spread)
    # costs of different starts are comparable only in one unit: that of the first start
    placed, values = jax.vmap(
        lambda x, facing: refine(x, facing, starts[0], seen, BETAS[0], shares)
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
    x, values = jax.vmap(lambda x, facing: refine(x, facing, base, photo.weights, SIZE, shares))(
        x, facing
    )
    winner = jnp.argmin(values)
    body = unpack_body(x[winner], facing[winner])
    found = project_keypoints(body, skeleton, ties)
    # the fit places the pelvis, whose rest position depends on the shape; a camera needs both
    pelvis = skeleton.rest[0] + skeleton.dirs[0] @ body.betas
    return body._asdict() | {"keypoints": found, "pelvis": pelvis}


def _place_start(
    photo: _Photo, seen: Array, facing: Array, skeleton: Skeleton, ties: Array
) -> Float[Array, "79"]:
    """Return the relaxed body, placed so that its keypoints have the photo's mean and spread."""
    far = jnp.zeros(SIZE).at[DEPTH].set(jnp.log(_FAR_M))
    flat = project_keypoints(unpack_body(far, facing), skeleton, ties) * _FAR_M
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
