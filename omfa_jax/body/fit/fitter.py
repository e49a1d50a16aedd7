"""Fit of SMPL-X parameters and cameras to the keypoints of many photos, in stages as in SMPLify.

The first stage finds the position and facing of the body from several starts, using keypoints that
hardly move with the limbs. The second fits pose and shape from the best of them, with a decreasing
outlier scale. Where there is a person mask, `Fitter.refine` continues with the body's outline.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.fit import pose_prior
from omfa_jax.body.fit.fit_quality import find_confident_keypoints, judge_fit
from omfa_jax.body.fit.fit_result import FitResult, make_body_camera, make_body_params
from omfa_jax.body.fit.fit_stages import (
    BODY_HEIGHT_M,
    BodyFitSettings,
    FitPhoto,
    FitTarget,
    refine,
    solve,
)
from omfa_jax.body.fit.keypoints import KeypointSet
from omfa_jax.body.fit.outline_rows import OutlinePoints
from omfa_jax.body.fit.skeleton import load_skeleton
from omfa_jax.core.compile_notice import hide_slow_compile_box
from omfa_jax.core.errors import OmfaError

__all__ = ["BODY_HEIGHT_M", "BodyFitSettings", "FitResult", "Fitter"]
# depths of bones and their weights, of `read_bone_depths`
BoneDepths = tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n"]]


class _Loaded(NamedTuple):
    """Photos on the device, and what their reports need."""

    photo: FitPhoto
    rows: Float[np.ndarray, "b k 3"]
    sizes: Float[np.ndarray, "b 2"]
    seen: Bool[np.ndarray, "b k"]
    focal: Float[np.ndarray, "b"]


class Fitter:
    """Fits bodies of one model to keypoints of one set; compiles once per batch size."""

    def __init__(
        self, model: BodyModel, known: KeypointSet, settings: BodyFitSettings | None = None
    ) -> None:
        self.model = model
        self.keypoints = known
        self.settings = settings or BodyFitSettings()
        steady = np.array([name in known.steady for name in known.names])
        target = FitTarget(
            known,
            load_skeleton(model, points=known.points),
            jnp.asarray(known.make_matrix(), jnp.float32),
            jnp.asarray(steady, jnp.float32),
            self.settings,
        )
        self._solve = jax.jit(jax.vmap(partial(solve, target=target)))
        self._refine = jax.jit(jax.vmap(partial(refine, target=target)))

    def __call__(
        self,
        rows_px: Float[np.ndarray, "b k 3"],
        sizes_px: Sequence[tuple[int, int]],
        depths: BoneDepths | None = None,
    ) -> list[FitResult]:
        """Return the fits of `b` photos, from rows (x px, y px, confidence) and (width, height).

        Keypoints are weighted by squared confidence. Those below MIN_CONFIDENCE, at the edge of
        the image or at (0, 0), OpenPose's mark for missing ones, are ignored. `depths`: those of
        `read_bone_depths`, for sets with bones. Bad fits are returned as well; their reports have
        the reason of the rejection. Raises OmfaError for arrays of the wrong shape.
        """
        loaded = self._load(rows_px, sizes_px, depths)
        with hide_slow_compile_box():
            found = jax.device_get(self._solve(loaded.photo))
        return self._make_results(loaded, found)

    def refine(
        self,
        fits: Sequence[FitResult],
        outlines: OutlinePoints,
        rows_px: Float[np.ndarray, "b k 3"],
        sizes_px: Sequence[tuple[int, int]],
        depths: BoneDepths | None = None,
    ) -> list[FitResult]:
        """Return the fits that continue from `fits`, with points of their outlines on lines.

        `outlines`: a row of `find_outline_points` for each photo. The rest is as in the call that
        gave `fits`.
        """
        loaded = self._load(rows_px, sizes_px, depths)
        starts = [
            jnp.asarray(np.stack([fit.unknowns[name] for fit in fits]), jnp.float32)
            for name in ("x", "facing", "base")
        ]
        lines = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), outlines)
        given = (loaded.photo, lines, *starts)
        if len(fits) == 1:
            # for one photo XLA's matrix products on CPUs end the process (jaxlib 0.10.2)
            given = jax.tree.map(lambda array: jnp.repeat(array, 2, axis=0), given)
        with hide_slow_compile_box():
            found = jax.device_get(self._refine(*given))
        return self._make_results(loaded, found)

    def _load(
        self, rows_px: np.ndarray, sizes_px: Sequence[tuple[int, int]], depths: BoneDepths | None
    ) -> _Loaded:
        rows, sizes = np.asarray(rows_px, np.float64), np.asarray(sizes_px, np.float64)
        expected = (len(sizes), len(self.keypoints.ties), 3)
        if rows.shape != expected or sizes.shape != (len(rows), 2):
            raise OmfaError(
                f"keypoints: expected shape {expected} and one size (width, height) each,"
                f" got {rows.shape} and {sizes.shape}"
            )
        if depths is not None and not self.keypoints.bones:
            raise OmfaError(
                f"depths: the keypoint set {self.keypoints.name} has no bones; expected BlazePose"
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
        given: tuple[Any, Any] = (None, None)
        if self.keypoints.bones:
            # always arrays for such a set, so that it is compiled once
            none = np.zeros((len(rows), len(self.keypoints.bones)))
            given = depths or (none, none)
        fields = (places, weights, *given)
        photo = FitPhoto(*jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), fields))
        return _Loaded(photo, rows, sizes, seen, focal)

    def _make_results(self, loaded: _Loaded, found: dict[str, np.ndarray]) -> list[FitResult]:
        _, rows, sizes, seen, focal = loaded
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
                    one,
                )
            )
        return fits
