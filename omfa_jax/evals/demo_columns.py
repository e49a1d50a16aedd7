"""The columns of images that the demo's report shows."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.core.images import from_signed, letterbox, read_rgb, to_signed
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.decode_record import Example
from omfa_jax.evals.exact_truth import ExactTruth
from omfa_jax.evals.influence import sample_derangement
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import SplitRun
from omfa_jax.sampling.image_inputs import SlotFitter, render_pose
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.sampling.task_functions import turntable

SEED = 11
# examples in a sheet, and views of the turntable
NUM_SHOWN = 6
VIEWS = 6
Columns = dict[str, Any]


def stack_inputs(split: EvalSplit) -> dict[str, np.ndarray]:
    """Return the images of every component and the pose maps, uint8 (n, h, w, 3) each."""
    rows = [split.get_inputs(place) for place in range(len(split))]
    return {name: np.stack([row[name] for row in rows]) for name in (*COMPONENTS, "pose")}


def read_first_images(folder: AnyPath, split: EvalSplit) -> list[np.ndarray]:
    """Return the first saved images of a folder."""
    return [read_rgb(folder / f"{name}.png") for name in split.names[:NUM_SHOWN]]


def collect_sections(
    try_on: SplitRun,
    try_off: SplitRun,
    untrained_on: SplitRun,
    untrained_off: SplitRun,
    truth: ExactTruth,
) -> dict[str, Columns]:
    """Return the columns of the sheets whose images were sampled for the scores."""
    split = try_on.split
    given = {name: images[:NUM_SHOWN] for name, images in stack_inputs(split).items()}
    other = stack_inputs(split.with_setting("unpaired"))["garment"][:NUM_SHOWN]
    names = split.names[:NUM_SHOWN]

    def read_answers(kind: str) -> list[np.ndarray]:
        return [truth.read_answer(name, kind).image for name in names]

    def read_images(run: SplitRun, name: str = "pred") -> Sequence[np.ndarray]:
        return read_first_images(run.folder / name, run.split)

    faces, poses = given["face"], given["pose"]
    return {
        "Try-on: garment + face + pose -> person": {
            "garment": given["garment"], "face": faces, "pose": poses,
            "try_on": read_images(try_on), "truth": given["person"],
            "other garment": read_images(try_on, "other_garment"),
            "other pose": read_images(try_on, "other_pose"),
            "untrained": read_images(untrained_on),
        },
        "Try-off: person -> garment": {
            "person": given["person"], "try_off": read_images(try_off), "truth": given["garment"],
            "other person": read_images(try_off, "other_person"),
            "untrained": read_images(untrained_off),
        },
        "Unpaired try-on: a garment the person never wore": {
            "garment": other, "face": faces, "pose": poses,
            "try_on": read_images(try_on, "truth_unpaired"), "truth": read_answers("unpaired"),
        },
        "New pose": {
            "garment": given["garment"], "face": faces,
            "pose": [truth.read_pose_map(name, "new_pose") for name in names],
            "try_on": read_images(try_on, "truth_new_pose"), "truth": read_answers("new_pose"),
        },
    }  # fmt: skip


def sample_transfer(try_on: SplitRun, try_off: SplitRun) -> Columns:
    """Return a few people in garments from others' photos: try-off (sampled before), try-on."""
    split = try_on.split
    # nobody is dressed in the garment that they wear already
    swap = sample_derangement(len(split), SEED)
    few = dataclasses.replace(try_on, split=split.take(min(NUM_SHOWN, len(split))))

    def read_garment(place: int) -> np.ndarray:
        name = split.names[int(swap[place])]
        return read_rgb(try_off.folder / "pred" / f"{name}.png", "try-off")

    def make_inputs(place: int) -> Example:
        example = split.get_inputs(place)
        size: Any = np.asarray(example["garment"]).shape[:2]
        return example | {"garment": letterbox(read_garment(place), *size)}

    folder = few.sample_predictions("transfer", make_inputs)
    places = range(len(few.split))
    own = [split.get_inputs(place) for place in places]
    return {
        "source": [split.get_inputs(int(swap[place]))["person"] for place in places],
        "garment": [read_garment(place) for place in places],
        "face": [example["face"] for example in own],
        "pose": [example["pose"] for example in own],
        "transfer": read_first_images(folder, few.split),
    }


def sample_turntable(sampler: Sampler, raw: Path, split: EvalSplit, slots: SlotFitter) -> Columns:
    """Return one person and garment over a turn of the body, one column per view."""
    from omfa_jax.body.body_file import load_body
    from omfa_jax.body.turntable import make_turntable

    params, camera = load_body(raw / "test" / "smplx" / f"{split.names[0]}.npz")
    drawn = [render_pose(p, camera, slots.pose_style, None) for p in make_turntable(params, VIEWS)]
    poses = np.concatenate([slots.fit_pose_map(image) for image in drawn])
    given = split.get_inputs(0)
    garment, face = (to_signed(np.asarray(given[name])[None]) for name in ("garment", "face"))
    people = turntable(sampler, garment, face, poses, seed=SEED)
    return {
        f"{360 * view // VIEWS} deg": [from_signed(poses[view]), people[view]]
        for view in range(VIEWS)
    }
