"""The demo's picture from a photo alone, and what it loses against the known pose."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import from_signed, read_rgb, to_signed, write_image
from omfa_jax.core.json_text import parse_json
from omfa_jax.evals.demo_columns import SEED, Columns
from omfa_jax.evals.exact_truth import ExactTruth, TruthAnswer
from omfa_jax.evals.influence import sample_derangement
from omfa_jax.evals.psnr import psnr
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.person_inputs import load_person
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.sampling.task_functions import try_on
from omfa_jax.synthetic.world import World
from omfa_jax.synthetic.world_folder import FINISHED_FILE

log = logging.getLogger(__name__)

# The photo has this many times the size of the model's images, about that of a real one. In
# photos of the model's own size, where a hand has 5 px, one body in twelve is not found.
LARGER = 8
# the section of the report
PHOTO_ALONE = "From a photo alone: no keypoints, no body"
FOUND, KNOWN, OTHER = "found in the photo", "known", "another person's"
SlotImage = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class PhotoCase:
    """A photo and a garment, all that is used, and what is known besides.

    Nothing that belongs to a raw data set may lie beside `photo`. `known_pose` and `other_pose`,
    that of another person, are pose maps in the person's slot; `answer` is the exact photo.
    """

    photo: Path
    garment: SlotImage
    known_pose: SlotImage
    other_pose: SlotImage
    answer: TruthAnswer


def make_photo_case(split: EvalSplit, raw: Path, truth: ExactTruth, folder: Path) -> PhotoCase:
    """Return the first person of a synthetic split with a garment that they never wore.

    Their photo is rendered once more, larger, and written to `folder`, away from keypoints, parse
    map and body.
    """
    name, unpaired = split.names[0], split.with_setting("unpaired")
    world = parse_json((raw / FINISHED_FILE).read_text())
    height, width = LARGER * world["height_px"], LARGER * world["width_px"]
    large, number = World(world["seed"], height, width), int(name.split("_")[0])
    members = large.get_person(number), large.get_garment(number), large.get_pose(number)
    photo = folder / f"{name}.jpg"
    write_image(photo, large.render_photo(*members, large.get_view(number)).image)
    given = unpaired.get_inputs(0)
    other = int(sample_derangement(len(split), SEED)[0])
    return PhotoCase(
        photo,
        np.asarray(given["garment"]),
        np.asarray(given["pose"]),
        np.asarray(split.get_inputs(other)["pose"]),
        truth.read_answer(name, "unpaired"),
    )


def sample_photo_alone(
    sampler: Sampler, slots: SlotFitter, case: PhotoCase
) -> tuple[Columns, dict[str, Any]]:
    """Return (columns of images, scores) of a try-on from a photo alone, as `omfa sample` does it.

    The scores hold PSNR in dB over the person and over the image, by pose: found in the photo, the
    known one, and another person's, all with the face that was found and from the same noise.
    Without a person or body in the photo they hold the `reason`, and nothing is sampled.
    """
    image = read_rgb(case.photo, "photo")
    facts: dict[str, Any] = {"person": case.photo.stem, "photo_px": [*image.shape[1::-1]]}
    try:
        # the whole photo, as the exact answer shows it
        me = load_person(slots, case.photo, crop=False)
        if me.pose is None:
            raise OmfaError(f"{case.photo}: no body found")
    except OmfaError as error:
        log.warning("no picture from a photo alone: %s", error)
        return {"photo": [image], "garment": [case.garment]}, facts | {"reason": str(error)}
    assert me.face is not None, "a required face is an error without one"
    garment = to_signed(case.garment)[None]
    poses = {
        FOUND: me.pose,
        KNOWN: to_signed(case.known_pose)[None],
        OTHER: to_signed(case.other_pose)[None],
    }
    made = {
        name: try_on(sampler, garment, me.face, pose, seed=SEED)[0] for name, pose in poses.items()
    }
    answer = case.answer
    facts["psnr_db"] = {
        name: {
            "person": round(psnr(picture, answer.image, answer.person), 2),
            "whole": round(psnr(picture, answer.image), 2),
        }
        for name, picture in made.items()
    }
    found, known = (facts["psnr_db"][name]["person"] for name in (FOUND, KNOWN))
    facts["loss_db"] = round(known - found, 2)
    log.info(
        "from a photo alone (%s): %.2f dB over the person; with the known pose %.2f dB, so the loss"
        " is %.2f dB",
        *(case.photo.name, found, known, facts["loss_db"]),
    )
    columns = {
        "photo": image, "garment": case.garment, "face found": from_signed(me.face[0]),
        "pose found": from_signed(me.pose[0]), "from the photo": made[FOUND],
        "truth": answer.image, "known pose": case.known_pose, "in known pose": made[KNOWN],
        "in another's": made[OTHER],
    }  # fmt: skip
    return {name: [shown] for name, shown in columns.items()}, facts
