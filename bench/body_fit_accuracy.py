"""Accuracy of body fits to the 2D keypoints of known bodies.

    python bench/body_fit_accuracy.py

The bodies are people of the synthetic world, as in its photos (head to thighs) and in full view,
facing all directions. The fit gets every keypoint in the image, exact or with noise of 0.5% of the
body's height. Errors are over all 22 body joints in the image, not only the keypoints.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera, make_look_at_camera
from omfa_jax.body.fit.fitter import BODY_HEIGHT_M, Fitter
from omfa_jax.body.fit.keypoints import (
    BODY_18,
    BODY_25,
    DEEPFASHION,
    KeypointSet,
    find_landmark_vertices,
)
from omfa_jax.body.smplx_forward import forward
from omfa_jax.synthetic.people import sample_person
from omfa_jax.synthetic.random_poses import sample_pose

SIZE_PX = (768, 1024)


@dataclass
class Truth:
    """Bodies, their cameras, their 22 joints (metres and pixels) and keypoints (b, k, 3)."""

    params: list[BodyParams]
    cameras: list[Camera]
    joints: np.ndarray
    pixels: np.ndarray
    rows: np.ndarray
    height_px: np.ndarray


def make(model: BodyModel, known: KeypointSet, count: int, kind: str, noise: float, seed: int):
    """Return `count` people, of kind "half" (head to thighs) or "whole"."""
    rng = np.random.default_rng(seed)
    params, cameras, all_joints, all_pixels, rows, heights = [], [], [], [], [], []
    corners = np.array(SIZE_PX)
    for index in range(count):
        body = sample_pose(rng, index).make_params(sample_person(rng, index).betas)
        if kind == "whole":
            turn = body.global_orient + np.array([0, rng.uniform(-np.pi, np.pi), 0])
            body = body.replace(global_orient=turn)
        vertices, joints = forward(model, body)
        tall = 0.95 if kind == "half" else 2.0
        middle = 0.06 if kind == "half" else -0.45
        target = np.array([rng.normal(0, 0.03), middle + rng.normal(0, 0.03), 0])
        distance = rng.uniform(2.5, 4.5)
        eye = target + np.array([0, rng.uniform(-0.15, 0.25), distance])
        camera = make_look_at_camera(
            eye, target, focal_px=SIZE_PX[1] / tall * distance, width_px=768, height_px=1024
        )
        landmarks = vertices[list(find_landmark_vertices(model).values())]
        pixels, depth = camera.project(np.concatenate([joints[:22], landmarks]))
        found = known.make_matrix() @ pixels
        height = camera.focal_px[1] * BODY_HEIGHT_M / depth[0]
        found = found + rng.normal(size=found.shape) * noise * height
        inside = ((found > 0) & (found < corners)).all(1)
        rows.append(np.c_[found, inside * 1.0])
        params.append(body)
        cameras.append(camera)
        all_joints.append(joints[:22])
        all_pixels.append(pixels[:22])
        heights.append(height)
    arrays = (np.stack(a) for a in (all_joints, all_pixels, rows, heights))
    return Truth(params, cameras, *arrays)


def mean_pose_error(model: BodyModel, truth: Truth, body: BodyParams) -> np.ndarray:
    """Return each photo's joint error (px) of the mean body under the best shift and scale.

    It faces the true direction, which a fit must find.
    """
    errors = []
    for params, camera, pixels in zip(truth.params, truth.cameras, truth.pixels, strict=True):
        _, joints = forward(model, body.replace(global_orient=params.global_orient))
        flat, _ = camera.project(joints[:22])
        shown = in_picture(pixels)
        a, b = flat[shown] - flat[shown].mean(0), pixels[shown] - pixels[shown].mean(0)
        scale = (a * b).sum() / (a * a).sum()
        errors.append(np.linalg.norm(a * scale - b, axis=1).mean())
    return np.array(errors)


def in_picture(pixels: np.ndarray) -> np.ndarray:
    """Return which joints are in the image."""
    return np.all((pixels > 0) & (pixels < np.array(SIZE_PX)), axis=-1)


def measure(fitter: Fitter, model: BodyModel, truth: Truth, batch: int) -> dict[str, np.ndarray]:
    """Return, per photo, the joint errors of the fit and of the mean body, and the 3D error.

    2D errors are fractions of the body's height, the 3D error is in mm.
    """
    fits, sizes = [], [SIZE_PX] * batch
    for first in range(0, len(truth.rows), batch):
        rows = truth.rows[first : first + batch]
        fits += fitter(np.pad(rows, ((0, batch - len(rows)), (0, 0), (0, 0))), sizes)[: len(rows)]
    reprojection, distance = [], []
    for i, fit in enumerate(fits):
        _, joints = forward(model, fit.params)
        pixels, _ = fit.camera.project(joints[:22])
        shown = in_picture(truth.pixels[i])
        reprojection.append(np.linalg.norm(pixels - truth.pixels[i], axis=1)[shown].mean())
        # in camera axes with the pelvis at the origin, since depth cannot be known from 2D
        found, real = (
            (j - j[0]) @ c.rotation.T
            for j, c in ((joints[:22], fit.camera), (truth.joints[i], truth.cameras[i]))
        )
        distance.append(1000 * np.linalg.norm(found - real, axis=1)[shown].mean())
    return {
        "fit": np.array(reprojection) / truth.height_px,
        "neutral": mean_pose_error(model, truth, make_neutral_params()) / truth.height_px,
        "mm": np.array(distance),
        "accepted": np.array([fit.report.accepted for fit in fits]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=128, help="bodies per row (default: 128)")
    parser.add_argument("--batch-size", type=int, default=32, help="photos per fit (default: 32)")
    options = parser.parse_args()
    model = load_body_model()
    print(
        "keypoints    view   noise  error mean/median/95% of body height   mean pose   3D mm  kept"
    )
    for known in (BODY_25, BODY_18, DEEPFASHION):
        fitter = Fitter(model, known)
        for kind in ("half", "whole"):
            for noise in (0.0, 0.005):
                truth = make(model, known, options.count, kind, noise, seed=1)
                found = measure(fitter, model, truth, options.batch_size)
                error, mean = found["fit"], found["neutral"].mean()
                print(
                    f"{known.name:12} {kind:6} {noise:5.1%}  {error.mean():6.2%}"
                    f" {np.median(error):6.2%} {np.percentile(error, 95):6.2%}"
                    f"  {mean:14.2%} ({mean / error.mean():4.1f}x) {found['mm'].mean():9.0f}"
                    f" {found['accepted'].mean():6.0%}",
                    flush=True,
                )
        started = time.perf_counter()
        measure(fitter, model, truth, options.batch_size)
        seconds = (time.perf_counter() - started) / options.count
        print(
            f"{known.name:12} {seconds:.3f} s per photo in batches of {options.batch_size},"
            " without compilation"
        )


if __name__ == "__main__":
    main()
