"""Influence of the pose with the pose from the photo alone, as a share of the known pose's.

    python bench/photo_influence.py --sheet DIR/worst.png

The shipped model dresses held-out people of the world that it was trained in (SPLIT test, which
training never saw) in their own garment. A person's picture is made four times from the same noise:
in the true pose, in that of another person, and in the one that `load_person` finds in their photo
alone, with the known face and with the face from that photo, too. PSNR is measured over the person
in the exact photo, as the influence block of `omfa eval` does; a gain is what a pose has over
another person's.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from photo_fit import compare_joints

import omfa_jax as omfa
from omfa_jax.body.body_model import BodyModel
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import encode_jpeg, from_signed, read_rgb, write_image
from omfa_jax.data.builders.face_box import find_face_box
from omfa_jax.data.records.face_crop import crop_face
from omfa_jax.diffusion.noise import make_example_ids
from omfa_jax.evals.influence import sample_derangement
from omfa_jax.evals.metric_aggregation import PERCENTILES, RESAMPLES
from omfa_jax.evals.psnr import psnr
from omfa_jax.sampling.image_inputs import render_pose
from omfa_jax.sampling.image_sheet import draw_sheet
from omfa_jax.sampling.person_inputs import PersonInputs
from omfa_jax.sampling.pose_sources import get_body_model
from omfa_jax.synthetic.world import RenderedPhoto, World
from omfa_jax.synthetic.world_folder import SPLIT_STARTS

SHIPPED = Path(__file__).parents[1] / "omfa_jax" / "assets" / "tiny"
# of the world that the small model was trained in: omfa_jax/assets/tiny/README.md
WORLD_SEED = 1
# examples per call of the sampler
ROWS = 4
KNOWN, OTHER, PHOTO, WHOLE = "known", "another person's", "from the photo", "and the face, too"
SHOWN = 8


@dataclass(frozen=True)
class Case:
    """A held-out person: images at the slots' sizes, and what their photo alone gave.

    `found` is None, and `reason` says why, if the photo gave no pose.
    """

    truth: RenderedPhoto
    garment: np.ndarray
    face: np.ndarray
    pose: np.ndarray
    large: RenderedPhoto
    found: PersonInputs | None
    reason: str = ""


def make_case(slots: omfa.SlotFitter, small: World, large: World, number: int) -> Case:
    """Render person `number` in both worlds, and read the large photo as `omfa sample` does."""
    truth, photo = (
        world.render_photo(
            world.get_person(number), world.get_garment(number), world.get_pose(number),
            world.get_view(number),
        )
        for world in (small, large)
    )  # fmt: skip
    garment, _ = small.render_garment(small.get_garment(number))
    # face and pose map as they are in the records
    box = find_face_box(truth.keypoints.astype(np.float64), truth.parse, *truth.parse.shape)
    assert box is not None, "synthetic people have keypoints of their faces"
    drawn = render_pose(truth.params, truth.camera, slots.pose_style, None)
    found, reason = None, ""
    try:
        # what a user's photo has been through
        found = omfa.load_person(slots, read_rgb(encode_jpeg(photo.image)), crop=False)
    except OmfaError as error:
        reason = str(error)
    return Case(
        truth,
        slots.fit_image("garment", garment),
        slots.fit_image("face", crop_face(truth.image, box)),
        slots.fit_pose_map(drawn),
        photo,
        found,
        reason,
    )


def compare_bodies(model: BodyModel, case: Case) -> tuple[float, float, float]:
    """Return the mean distance of the found body's joints from the true ones.

    In the photo (share of the body's height), in mm after aligning the pelvis, and that of elbows
    and wrists; over joints in the photo.
    """
    assert case.found is not None and case.found.body is not None
    body = case.found.body
    found = compare_joints(model, case.large, body.bodies[0], body.camera)
    return found.of_body, found.body_mm, float(np.mean(found.arms_mm or [np.nan]))


def sample_all(
    sampler: omfa.Sampler,
    cases: Sequence[Case],
    poses: Sequence[np.ndarray | None],
    faces: Sequence[np.ndarray],
    seed: int,
) -> list[np.ndarray]:
    """Return every person's picture; the noise depends on the seed and the person alone.

    A pose that is None is the null pose: the model chooses.
    """
    null = np.zeros_like(cases[0].pose)
    drawn = [null if pose is None else pose for pose in poses]
    pictures: list[np.ndarray] = []
    for first in range(0, len(cases), ROWS):
        # the last batch is filled, so that one program does for all
        batch = [min(first + row, len(cases) - 1) for row in range(ROWS)]
        made = sampler(
            "try_on",
            {
                "garment": np.concatenate([cases[i].garment for i in batch]),
                "face": np.concatenate([faces[i] for i in batch]),
            },
            np.concatenate([drawn[i] for i in batch]),
            seed=seed,
            has_pose=np.array([poses[i] is not None for i in batch]),
            ids=make_example_ids(str(i) for i in batch),
        )["person"]
        pictures += list(made[: len(cases) - first])
    return pictures


def describe(name: str, values: np.ndarray, gains: dict[str, np.ndarray], seed: int) -> str:
    """Return a row of the table: PSNR, gain and share of the known pose's gain, with intervals."""
    random = np.random.default_rng(seed)
    draws = random.integers(len(values), size=(RESAMPLES, len(values)))
    own, known = gains[name][draws].mean(axis=1), gains[KNOWN][draws].mean(axis=1)
    share = gains[name].mean() / gains[KNOWN].mean()
    ends = np.percentile(own, PERCENTILES), np.percentile(own / known, PERCENTILES)
    return (
        f"{name:20} {values.mean():6.2f} {gains[name].mean():+6.2f}"
        f"  {ends[0][0]:+.2f} to {ends[0][1]:+.2f}   {share:5.0%}"
        f"  {ends[1][0]:.0%} to {ends[1][1]:.0%}"
    )


def print_table(scores: dict[str, np.ndarray], who: np.ndarray, seed: int) -> None:
    """Print PSNR and gains over the chosen people."""
    chosen = {name: values[who] for name, values in scores.items()}
    gains = {name: values - chosen[OTHER] for name, values in chosen.items()}
    print(f"{'pose':20}   PSNR   gain, dB  (95%)         of the known pose's gain (95%)")
    for name in (KNOWN, PHOTO, WHOLE):
        print(describe(name, chosen[name], gains, seed))
    print(f"{OTHER:20} {chosen[OTHER].mean():6.2f}", flush=True)


def write_sheet(path: Path, cases: list[Case], made: dict[str, list], order: np.ndarray) -> None:
    """Write the people in the given order: true and found pose maps, and all pictures."""
    shown = [int(i) for i in order]
    found = [cases[i].found for i in shown]
    height, width = cases[0].truth.image.shape[:2]
    maps = [from_signed(one.pose[0]) if one and one.pose is not None else None for one in found]
    empty = np.zeros((height, width, 3), np.uint8)
    columns = {
        "photo": [cases[i].truth.image for i in shown],
        "true pose": [from_signed(cases[i].pose[0]) for i in shown],
        "found pose": [empty if image is None else image for image in maps],
    } | {name: [made[name][i] for i in shown] for name in (KNOWN, PHOTO, WHOLE, OTHER)}
    write_image(path, draw_sheet(columns, 2 * height, 2 * width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--count", type=int, default=48, help="held-out people (default: 48)")
    add("--height", type=int, default=1024, help="height of their photos in px (default: 1024)")
    add("--world", type=int, default=WORLD_SEED, help="seed of their world (default: %(default)s)")
    add("--checkpoint", type=Path, default=SHIPPED, help="model (default: the shipped one)")
    add("--steps", type=int, default=20, help="denoising steps (default: 20)")
    add("--guidance", type=float, default=2.0, help="guidance (default: 2.0)")
    add("--seed", type=int, default=11, help="of the noise and the wrong poses (default: 11)")
    add("--sheet", type=Path, help="picture of the people who lose most (default: none)")
    options = parser.parse_args()
    model = omfa.load_model(options.checkpoint)
    slots = omfa.SlotFitter(model.settings)
    small = World(options.world, *slots.sizes["person"])
    large = World(options.world, options.height, options.height * 3 // 4)
    started, first = time.process_time(), SPLIT_STARTS["test"]
    cases = [make_case(slots, small, large, first + i) for i in range(options.count)]
    seconds = time.process_time() - started
    has_pose = np.array([case.found is not None for case in cases])
    print(
        f"people {first} to {first + len(cases) - 1} of world {options.world}, photos of"
        f" {large.width_px}x{large.height_px} px: {has_pose.sum()} of {len(cases)} found and fitted"
        f" ({seconds / len(cases):.1f} s of CPU each, rendering and compiling included)"
    )
    for reason, times in Counter(case.reason for case in cases if case.reason).items():
        print(f"  {times} x {reason}")
    body = get_body_model(None)
    apart = np.array([compare_bodies(body, case) for case in cases if case.found is not None])
    across, whole, arms = np.nanmedian(apart, axis=0)
    print(
        f"median distance of the found joints from the true ones: {across:.2%} of the body's height"
        f" in the photo, {whole:.0f} mm in 3D, elbows and wrists {arms:.0f} mm"
    )

    sampler = omfa.Sampler(model, omfa.SamplerSettings(options.steps, options.guidance))
    swap = sample_derangement(len(cases), options.seed)
    known, faces = [case.pose for case in cases], [case.face for case in cases]
    poses = [None if case.found is None else case.found.pose for case in cases]
    own = [
        case.face if case.found is None or case.found.face is None else case.found.face
        for case in cases
    ]
    made, scores = {}, {}
    for name, given, shown in (
        (KNOWN, known, faces),
        (OTHER, [known[i] for i in swap], faces),
        (PHOTO, poses, faces),
        (WHOLE, poses, own),
    ):
        made[name] = sample_all(sampler, cases, given, shown, options.seed)
        scores[name] = np.array(
            [
                psnr(image, case.truth.image, case.truth.parse > 0)
                for image, case in zip(made[name], cases, strict=True)
            ]
        )
    print_table(scores, has_pose, options.seed)
    if not has_pose.all():
        print("everybody, where nobody is found with the pose that the model chooses:")
        print_table(scores, np.full(len(cases), True), options.seed)
    lost = scores[KNOWN] - scores[PHOTO]
    print("lost by the pose from the photo, dB:", np.round(np.percentile(lost, (10, 50, 90)), 2))
    order = np.argsort(-lost)
    print("most:", ", ".join(f"{first + int(i)} {lost[i]:+.2f}" for i in order[:SHOWN]))
    if options.sheet:
        write_sheet(options.sheet, cases, made, order[:SHOWN])


if __name__ == "__main__":
    main()
