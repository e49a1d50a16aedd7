"""Accuracy of bodies fitted to photos alone: synthetic people of known body, and real photos.

    python bench/photo_fit.py --real FOLDER

Landmarks and masks come from `find_people`. Three fits are compared: to the 2D points, with the
depths of bones, and with the mask's outline. Two more rows have the true mask of the clothed person
and that of the bare body, without margins for clothes. Errors are over joints in the photo, in
metres after aligning the pelvis, as seen from the camera. Widths are those of the body at rest,
times its scale in the photo: the size of a person cannot be known from one photo. The lean is the
trunk's towards the camera (its error's mean and standard deviation in degrees), and the turn is
that of the hips (standard deviation).
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.camera import Camera
from omfa_jax.body.fit import silhouette
from omfa_jax.body.fit.fitter import BODY_HEIGHT_M, FitResult
from omfa_jax.body.fit.keypoints import find_landmark_vertices
from omfa_jax.body.fit.photo_fitter import PhotoFitter
from omfa_jax.body.landmarks import PersonLandmarks, find_people
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.body.zbuffer import rasterize
from omfa_jax.core.images import read_rgb
from omfa_jax.synthetic.world import RenderedPhoto, World

ARMS = [JOINT_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("elbow", "wrist")]
SHOULDERS, HIPS = (
    [JOINT_INDEX[f"{side}_{name}"] for side in ("left", "right")] for name in ("shoulder", "hip")
)
WIDTHS = {"shoulders": "acromion", "hips": "hip_side"}
# for the bare body's mask, which is exact
NO_CLOTHES = {"CLOTHES": {}, "OTHER_CLOTHES": silhouette.Cloth(0.0, 0.008), "SPREAD_M": 0.008}
# a mask is whole if it has this IoU with the true one
WHOLE_IOU = 0.95


@dataclass
class Measured:
    """Of one photo: errors in mm and as shares, and whether the fit is accepted."""

    body_mm: float
    arms_mm: list[float]
    of_body: float
    widths: dict[str, float]
    lean_deg: float
    turn_deg: float
    accepted: bool


def measure_widths(model: BodyModel, params: BodyParams, camera: Camera) -> dict[str, float]:
    """Return the widths of the body at rest in pixels, at the depth of its pelvis."""
    marks = find_landmark_vertices(model)
    rest, _ = forward(model, make_neutral_params().replace(betas=params.betas))
    _, joints = forward(model, params)
    scale = camera.focal_px[0] / camera.to_camera(joints[:1])[0, 2]
    return {
        name: scale * float(np.linalg.norm(rest[marks[f"left_{at}"]] - rest[marks[f"right_{at}"]]))
        for name, at in WIDTHS.items()
    }


@dataclass(frozen=True)
class JointErrors:
    """Of joints in the photo: distances in mm, that in the photo as a share of the body's height.

    `found` and `true` are all joints in camera axes, metres from the pelvis.
    """

    body_mm: float
    arms_mm: list[float]
    of_body: float
    found: np.ndarray
    true: np.ndarray


def compare_joints(
    model: BodyModel, photo: RenderedPhoto, params: BodyParams, camera: Camera
) -> JointErrors:
    """Return how far a body's joints are from the true ones."""
    found, pixels, depth = _see(model, params, camera)
    true, want, _ = _see(model, photo.params, photo.camera)
    shown = np.all((want > 0) & (want < (photo.camera.width_px, photo.camera.height_px)), axis=1)
    apart = 1000 * np.linalg.norm(found - true, axis=1)
    height_px = camera.focal_px[0] * BODY_HEIGHT_M / depth[0]
    return JointErrors(
        float(apart[shown].mean()),
        [float(apart[i]) for i in ARMS if shown[i]],
        float(np.linalg.norm(pixels - want, axis=1)[shown].mean() / height_px),
        found,
        true,
    )


def measure(model: BodyModel, photo: RenderedPhoto, fit: FitResult) -> Measured:
    """Return the errors of a fit."""
    joints = compare_joints(model, photo, fit.params, fit.camera)
    widths = measure_widths(model, fit.params, fit.camera)
    true = measure_widths(model, photo.params, photo.camera)
    return Measured(
        joints.body_mm,
        joints.arms_mm,
        joints.of_body,
        {name: widths[name] / true[name] - 1 for name in WIDTHS},
        compute_lean(joints.found) - compute_lean(joints.true),
        compute_turn(joints.found) - compute_turn(joints.true),
        fit.report.accepted,
    )


def compute_lean(joints: np.ndarray) -> float:
    """Return the angle of the trunk to the camera in degrees, from joints in camera axes."""
    up = joints[SHOULDERS].mean(axis=0) - joints[HIPS].mean(axis=0)
    return float(np.degrees(np.arctan2(-up[2], -up[1])))


def compute_turn(joints: np.ndarray) -> float:
    """Return how far the hips are turned from the camera, in degrees, -180 to 180."""
    across = joints[HIPS[0]] - joints[HIPS[1]]
    return float(np.degrees(np.arctan2(across[2], across[0])))


def _see(
    model: BodyModel, params: BodyParams, camera: Camera
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, joints = forward(model, params)
    pixels, depth = camera.project(joints[:22])
    return (joints[:22] - joints[0]) @ camera.rotation.T, pixels, depth


def fit_all(
    fitter: PhotoFitter, people: Sequence[PersonLandmarks], batch: int, **use: bool
) -> list[FitResult]:
    """Return the fits in batches of one size."""
    fits: list[FitResult] = []
    for first in range(0, len(people), batch):
        part = list(people[first : first + batch])
        fits += fitter(part + part[:1] * (batch - len(part)), **use)[: len(part)]
    return fits


def draw_body(model: BodyModel, photo: RenderedPhoto) -> np.ndarray:
    """Return the mask of the body without clothes and hair."""
    camera, (vertices, _) = photo.camera, forward(model, photo.params)
    pixels, depth = camera.project(vertices.astype(np.float64))
    screen = np.concatenate([pixels, depth[:, None]], axis=1)
    return rasterize(screen, model.faces, camera.width_px, camera.height_px).triangle >= 0


def replace_masks(
    people: Sequence[PersonLandmarks], masks: Sequence[np.ndarray]
) -> list[PersonLandmarks]:
    """Return the people with other masks."""
    pairs = zip(people, masks, strict=True)
    return [replace(person, mask=mask.astype(np.float64)) for person, mask in pairs]


def describe(name: str, measured: Sequence[Measured], whole: np.ndarray) -> str:
    """Return a row of the table."""
    arms = np.concatenate([one.arms_mm for one in measured])
    text = (
        f"{name:24} {np.mean([one.accepted for one in measured]):8.0%}"
        f" {np.mean([one.of_body for one in measured]):7.2%}"
        f" {np.mean([one.body_mm for one in measured]):7.0f} {arms.mean():7.0f}"
        f" {np.percentile(arms, 90):7.0f} {np.mean([one.lean_deg for one in measured]):+6.1f}"
        f" {np.std([one.lean_deg for one in measured]):5.1f}"
        f" {np.std([one.turn_deg for one in measured]):5.1f}"
    )
    for width in WIDTHS:
        error = np.array([one.widths[width] for one in measured])[whole]
        text += (
            f" | {error.mean():+6.1%} {np.abs(error).mean():6.1%}"
            f" {np.mean(np.abs(error) <= 0.05):5.0%}"
        )
    return text


def run_synthetic(fitter: PhotoFitter, count: int, seed: int, batch: int) -> None:
    """Print the errors on synthetic people."""
    world = World(seed, 1024, 768)
    photos, people, ious = [], [], []
    for i in range(count):
        person, garment = world.get_person(i), world.get_garment(i)
        photo = world.render_photo(person, garment, world.get_pose(i), world.get_view(i))
        if found := find_people(photo.image):
            photos.append(photo)
            people.append(found[0])
            mask, truth = found[0].mask >= 0.5, photo.parse > 0
            ious.append((mask & truth).sum() / (mask | truth).sum())
    whole = np.array(ious) >= WHOLE_IOU
    print(f"{len(people)} of {count} synthetic people found; {whole.sum()} with a whole mask")
    print(
        f"{'':24} accepted    2D      3D    arms,  90%   lean, spread, turn | shoulders, hips:"
        " bias, error, within 5%"
    )
    exact = replace_masks(people, [photo.parse > 0 for photo in photos])
    bare = replace_masks(people, [draw_body(fitter.model, photo) for photo in photos])
    every = np.ones_like(whole)
    for name, given, use in (
        ("2D points", people, {"use_depth": False, "use_mask": False}),
        ("with depths", people, {"use_mask": False}),
        ("with depths and mask", people, {}),
        ("the same, true masks", exact, {}),
        ("the same, bare body's", bare, {}),
    ):
        started = time.process_time()
        with patch.multiple(silhouette, **NO_CLOTHES) if given is bare else nullcontext():
            fits = fit_all(fitter, given, batch, **use)
        seconds = time.process_time() - started
        measured = [measure(fitter.model, *pair) for pair in zip(photos, fits, strict=True)]
        row = describe(name, measured, whole if given is people else every)
        # the first call of a kind compiles
        print(f"{row} | {seconds / len(people):.2f} s", flush=True)
        if given is people and not use:
            print(describe("the same, all masks", measured, every))
    print(f"the last column is CPU time per photo in batches of {batch}")


def run_real(fitter: PhotoFitter, folder: Path, batch: int, out: Path | None) -> None:
    """Print the reports of a folder of photos; `out` gets their body files."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    people = [(path, find_people(read_rgb(path, "photo"))) for path in paths]
    found = [(path, persons[0]) for path, persons in people if persons]
    errors, accepted = [], 0
    for use in ({"use_mask": False}, {}):
        fits = fit_all(fitter, [person for _, person in found], batch, **use)
        errors = [fit.report.median_of_image for fit in fits]
        accepted = sum(fit.report.accepted for fit in fits)
        print(
            f"{'with depths and mask' if not use else 'with depths'}: {len(paths)} photos,"
            f" {len(found)} found, {accepted} fitted; median error"
            f" {np.median(errors):.2%} of the image's height ({min(errors):.2%} to"
            f" {max(errors):.2%})"
        )
        for (path, _), fit in zip(found, fits, strict=True):
            widths = measure_widths(fitter.model, fit.params, fit.camera)
            print(
                f"  {path.stem}: {fit.report.median_of_image:.2%}, betas"
                f" {[round(float(b), 1) for b in fit.params.betas]},"
                f" shoulders {widths['shoulders']:.0f} px, hips {widths['hips']:.0f} px,"
                f" lean {compute_lean(_see(fitter.model, fit.params, fit.camera)[0]):+.0f} degrees"
                f" {fit.report.reason}"
            )
            if out is not None and not use:
                save_body(out / f"{path.stem}.npz", fit.params, fit.camera, source="keypoints")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="folder of real photos (default: none)")
    parser.add_argument("--out", type=Path, help="folder for the bodies of real photos")
    parser.add_argument("--count", type=int, default=91, help="synthetic people (default: 91)")
    parser.add_argument("--seed", type=int, default=11, help="their world (default: 11)")
    parser.add_argument("--batch-size", type=int, default=16, help="photos per fit (default: 16)")
    options = parser.parse_args()
    fitter = PhotoFitter(load_body_model())
    if options.real:
        run_real(fitter, options.real, options.batch_size, options.out)
    if options.count:
        run_synthetic(fitter, options.count, options.seed, options.batch_size)


if __name__ == "__main__":
    main()
