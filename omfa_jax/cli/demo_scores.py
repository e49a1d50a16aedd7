"""The demo's figures: held-out people and garments against the synthetic world's exact truth."""

import argparse
import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omfa_jax.cli.inputs import Slots, render_pose
from omfa_jax.core.images import from_signed, letterbox, read_rgb, to_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.decode import Example
from omfa_jax.data.settings import PipelineSettings
from omfa_jax.diffusion.sample import SamplerSettings
from omfa_jax.evals.examples import Split
from omfa_jax.evals.folder import Request, score_folder
from omfa_jax.evals.influence import derangement
from omfa_jax.evals.predictions import busy_devices, claim, sample_to_folder, weights_digest
from omfa_jax.evals.psnr import mean_psnr
from omfa_jax.evals.scores import write_scores
from omfa_jax.evals.split import SplitRun, influence_of, truth_of
from omfa_jax.evals.truth import Regions, Truth
from omfa_jax.models import decode, encode
from omfa_jax.models.reference_unet import network_params
from omfa_jax.sampling.generate import Sampler
from omfa_jax.sampling.tasks import turntable
from omfa_jax.train.load import load_bundle

log = logging.getLogger(__name__)

BAR_DB = 3.0
SEED = 11
SHOWN = 6
VIEWS = 6
# of the influence block's conditions, as the report calls them
ROWS = {
    "garment": "try_on, garment (garment region)",
    "pose": "try_on, pose (whole person)",
    "person": "try_off, person (whole picture)",
}
Columns = dict[str, Any]


def score(trained: Path, raw: Path, records: Path, options: argparse.Namespace):
    """Return (columns of pictures by section, scores) of the trained model on held-out people.

    Beside `trained`, eval/tiny and eval/untrained hold the predictions, eval/tiny.json and
    eval/untrained.json the scores; the untrained model makes the first few alone.
    """
    bundle, _ = load_bundle(trained)
    folder, slots = trained.parent / "eval", Slots(bundle.settings)
    settings = SamplerSettings(options.sampling_steps, 2.0)
    sampler = Sampler(bundle, settings, devices=busy_devices(options.test))
    pipeline = PipelineSettings(str(records), slots.sizes, threads=0)
    on = Split(pipeline, "test", "paired", limit=options.test)
    off, first = on.under("try_off"), on.first(min(SHOWN, len(on)))
    facts = {"sampler": dataclasses.asdict(settings), "seed": SEED, "weights": "untrained"}
    untrained = run_of(sampler, folder / "untrained", facts, params=untrained_params(bundle))
    blank_on, blank_off = untrained(first), untrained(first.under("try_off"))
    tiny = run_of(sampler, folder / "tiny", facts | {"weights": weights_digest(bundle)})
    worn, taken = tiny(on), tiny(off)
    for condition in ("garment", "pose"):
        worn.swapped(condition)
    taken.swapped("person")
    truth = Truth(raw)
    answers = {
        "unpaired": dataclasses.replace(worn, split=on.under("unpaired")).answered(
            truth, "unpaired"
        ),
        "new_pose": worn.answered(truth, "new_pose"),
    }
    influence = influence_of(worn, ["garment", "pose"], regions=Regions(raw))
    influence |= influence_of(taken, ["person"])
    exact = truth_of(worn, truth, answers)
    write_files(folder, {"tiny": worn, "untrained": blank_on}, influence, exact)

    given = stacked_given(on)
    scores: dict[str, Any] = {"sampling_steps": options.sampling_steps, "examples": len(on)}
    scores["vae_psnr_db"] = {
        name: round(mean_psnr(round_trip(bundle, to_signed(given[name])), given[name]), 2)
        for name in (*COMPONENTS, "pose")
    }
    scores["influence"] = {ROWS[name]: row(found) for name, found in influence.items()}
    log.info("influence: %s", scores["influence"])
    region = worn_regions(raw, on)
    off_db = taken.values(taken.folder / "pred", "psnr", taken.own_truth)
    on_db = worn.values(worn.folder / "pred", "psnr", worn.own_truth, region)
    blank_db = blank_on.values(blank_on.folder / "pred", "psnr", blank_on.own_truth, region)
    none_db = blank_off.values(blank_off.folder / "pred", "psnr", blank_off.own_truth)
    scores["against_untrained"] = {
        "examples": len(first),
        "try_on_db": [mean(on_db[:SHOWN]), mean(blank_db)],
        "try_off_db": [mean(off_db[:SHOWN]), mean(none_db)],
    }
    whole = worn.values(worn.folder / "pred", "psnr", worn.own_truth)
    scores["exact_truth_psnr_db"] = {
        "try_on, paired": {"whole": mean(whole), "garment_region": mean(on_db)},
        "try_on, unpaired garment": pair(exact["unpaired"]),
        "try_on, new pose": pair(exact["new_pose"]),
        "try_off": {"whole": mean(off_db)},
    }
    scores["bars"] = {
        name: found["gain_db"] >= BAR_DB for name, found in scores["influence"].items()
    }
    for name in ("try_on", "try_off"):
        trained_db, untrained_db = scores["against_untrained"][f"{name}_db"]
        scores["bars"][f"{name}, against untrained"] = trained_db - untrained_db > BAR_DB

    pictures = sections(worn, taken, blank_on, blank_off, truth)
    pictures["Transfer: off one person, onto another"] = transferred(worn, taken)
    pictures["Turntable"] = turned(Sampler(bundle, settings), raw, on, slots)
    return pictures, scores


def run_of(
    sampler: Sampler, folder: Path, facts: dict[str, Any], params: Any = None
) -> Callable[[Split], SplitRun]:
    """Return how one model samples a split: into `folder`/TASK, anew, truth and garments beside."""
    placed = None if params is None else sampler.placed(params)

    def run(split: Split) -> SplitRun:
        place = folder / split.task
        claim(place, facts, restart=True)
        split.write_truth(place)
        sample = functools.partial(sample_to_folder, sampler, seed=SEED, params=placed)
        made = SplitRun(split, place, SEED, sample)
        made.predictions()
        return made

    return run


def write_files(
    folder: Path, runs: dict[str, SplitRun], influence: dict[str, Any], exact: dict[str, Any]
) -> None:
    """Write the scores file of each model's try-on; the trained one's has all there is to say."""
    for name, run in runs.items():
        place, file = run.folder, folder / f"{name}.json"
        # an earlier run's, of other pictures
        file.unlink(missing_ok=True)
        scores = score_folder(
            Request(
                pred=place / "pred",
                gt=place / "gt",
                out=file,
                protocol="omfa",
                garments=place / "garments",
                pairs=place / "pairs.txt",
                method=name,
                seed=SEED,
            )
        )
        if name == "tiny":
            write_scores(file, dataclasses.replace(scores, influence=influence, truth=exact))


def stacked_given(split: Split) -> dict[str, np.ndarray]:
    """Return the pictures of every component and the pose maps, uint8."""
    rows = [split.given(place) for place in range(len(split))]
    return {name: np.stack([row[name] for row in rows]) for name in (*COMPONENTS, "pose")}


def worn_regions(raw: Path, split: Split) -> Callable[[int], np.ndarray | None]:
    """Return where each example's garment is worn."""
    regions = Regions(raw)
    return lambda place: regions.region(split.names[place], "garment", "upper")


def shown(folder: Path, split: Split) -> list[np.ndarray]:
    """Return the first saved pictures of a folder."""
    return [read_rgb(folder / f"{name}.png") for name in split.names[:SHOWN]]


def sections(
    worn: SplitRun, taken: SplitRun, blank_on: SplitRun, blank_off: SplitRun, truth: Truth
) -> dict[str, Columns]:
    """Return the columns of the sheets whose pictures were sampled for the scores."""
    split = worn.split
    given = {name: images[:SHOWN] for name, images in stacked_given(split).items()}
    other = stacked_given(split.under("unpaired"))["garment"][:SHOWN]
    names = split.names[:SHOWN]

    def answers(kind: str) -> list[np.ndarray]:
        return [truth.answer(name, kind).image for name in names]

    def made(run: SplitRun, name: str = "pred") -> Sequence[np.ndarray]:
        return shown(run.folder / name, run.split)

    faces, poses = given["face"], given["pose"]
    return {
        "Try-on: garment + face + pose -> person": {
            "garment": given["garment"], "face": faces, "pose": poses, "try_on": made(worn),
            "truth": given["person"], "other garment": made(worn, "other_garment"),
            "other pose": made(worn, "other_pose"), "untrained": made(blank_on),
        },
        "Try-off: person -> garment": {
            "person": given["person"], "try_off": made(taken), "truth": given["garment"],
            "other person": made(taken, "other_person"), "untrained": made(blank_off),
        },
        "Unpaired try-on: a garment the person never wore": {
            "garment": other, "face": faces, "pose": poses,
            "try_on": made(worn, "truth_unpaired"), "truth": answers("unpaired"),
        },
        "New pose": {
            "garment": given["garment"], "face": faces,
            "pose": [truth.pose_map(name, "new_pose") for name in names],
            "try_on": made(worn, "truth_new_pose"), "truth": answers("new_pose"),
        },
    }  # fmt: skip


def transferred(worn: SplitRun, taken: SplitRun) -> Columns:
    """Return a few people in what others' photos showed: try-off (sampled before), then try-on."""
    split = worn.split
    swap = derangement(len(split), SEED)
    few = dataclasses.replace(worn, split=split.first(min(SHOWN, len(split))))

    def garment(place: int) -> np.ndarray:
        name = split.names[int(swap[place])]
        return read_rgb(taken.folder / "pred" / f"{name}.png", "try-off")

    def given(place: int) -> Example:
        example = split.given(place)
        size: Any = np.asarray(example["garment"]).shape[:2]
        return example | {"garment": letterbox(garment(place), *size)}

    folder = few.predictions("transfer", given)
    places = range(len(few.split))
    own = [split.given(place) for place in places]
    return {
        "source": [split.given(int(swap[place]))["person"] for place in places],
        "garment": [garment(place) for place in places],
        "face": [example["face"] for example in own],
        "pose": [example["pose"] for example in own],
        "transfer": shown(folder, few.split),
    }


def turned(sampler: Sampler, raw: Path, split: Split, slots: Slots) -> Columns:
    """Return one person and garment over a turn of the body: a column a view."""
    from omfa_jax.body.params_file import load_body_file
    from omfa_jax.body.poses import turntable as turn

    params, camera = load_body_file(raw / "test" / "smplx" / f"{split.names[0]}.npz")
    drawn = [render_pose(p, camera, slots.pose_style, None) for p in turn(params, VIEWS)]
    poses = np.concatenate([slots.pose_map(image) for image in drawn])
    given = split.given(0)
    garment, face = (to_signed(np.asarray(given[name])[None]) for name in ("garment", "face"))
    people = turntable(sampler, garment, face, poses, seed=SEED)
    return {
        f"{360 * view // VIEWS} deg": [from_signed(poses[view]), people[view]]
        for view in range(VIEWS)
    }


def round_trip(bundle, images: np.ndarray) -> np.ndarray:
    """Return images after the VAE alone: the ceiling of every other figure."""
    run = jax.jit(
        lambda params, x: decode(bundle.vae_config, params, encode(bundle.vae_config, params, x))
    )
    return from_signed(np.asarray(run(bundle.vae_params, images)))


def untrained_params(bundle):
    """Return the same network with random weights."""
    key, reference = jax.random.key(SEED), bundle.settings.reference
    return network_params(bundle.unet_config, key, has_reference=reference)


def row(found: dict[str, Any]) -> dict[str, Any]:
    """Return one condition of the influence block in dB, rounded."""
    values = {f"{name}_db": round(found[name], 2) for name in ("right", "wrong", "gain")}
    return values | {"interval_db": [round(end, 2) for end in found["interval"]]}


def pair(found: dict[str, float]) -> dict[str, float]:
    """Return PSNR over the whole picture and over the garment's region, rounded."""
    return {
        "whole": round(found["psnr"], 2),
        "garment_region": round(found["psnr_garment_region"], 2),
    }


def mean(values: Sequence[float]) -> float:
    """Return the mean, rounded."""
    return round(float(np.mean(values)), 2)
