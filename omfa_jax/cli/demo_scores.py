"""The demo's figures: held-out people and garments against the synthetic world's exact truth."""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omfa_jax.cli.inputs import Slots, render_pose
from omfa_jax.core.images import from_signed, read_labels, read_rgb
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.labels import CIHP
from omfa_jax.data.pipeline import PipelineSettings, eval_batches
from omfa_jax.diffusion.sample import SamplerSettings
from omfa_jax.evals.influence import Influence, derangement, influence
from omfa_jax.evals.psnr import mean_psnr
from omfa_jax.models import decode, encode
from omfa_jax.sampling.generate import Sampler
from omfa_jax.sampling.tasks import transfer, try_off, try_on, turntable
from omfa_jax.train.load import load_bundle
from omfa_jax.weights.dual import network_params

log = logging.getLogger(__name__)

BAR_DB = 3.0
SEED = 11
SHOWN = 6
VIEWS = 6
Columns = dict[str, Any]


class HeldOut:
    """The held-out examples, fitted to the model's slots, and where their truth lies."""

    def __init__(self, raw: Path, records: Path, slots: Slots, count: int):
        self.raw, self.slots = raw / "test", slots
        settings = PipelineSettings(str(records), slots.sizes, threads=0)
        take = {"split": "test", "batch_size": count, "limit": count}
        self.batch = next(iter(eval_batches(settings, **take)))
        self.unpaired = next(iter(eval_batches(settings, **take, unpaired=True)))["garment"]
        self.keys = [str(key).split("/")[-1] for key in self.batch["key"]]
        labels = [read_labels(self.raw / "image-parse-v3" / f"{key}.png") for key in self.keys]
        self.garment_region = [CIHP.worn(parse, "upper") for parse in labels]
        self.person_region = [parse != CIHP.ids["background"] for parse in labels]

    def conditions(self) -> dict[str, np.ndarray]:
        """Return the images of every component and the pose maps."""
        return {name: self.batch[name] for name in (*COMPONENTS, "pose")}

    def truths(self, kind: str) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Return (pictures, garment regions, pose maps) of the `unpaired` or `new_pose` truth.

        Truth files are named person_garment_pose, each by its number; the unpaired garment is the
        pairs file's, the new pose is the next person's.
        """
        folder = self.raw / "truth"
        lines = (self.raw.parent / "test_pairs.txt").read_text().split("\n")
        partner = dict(line.split() for line in lines if line)
        images, regions, poses = [], [], []
        for key in self.keys:
            person, other = key[:5], partner[f"{key}.jpg"][:5]
            following = f"{int(person) + 1:05d}"
            name = {
                "unpaired": f"{person}_{other}_{person}",
                "new_pose": f"{person}_{person}_{following}",
            }[kind]
            images.append(read_rgb(folder / "image" / f"{name}.jpg", f"{kind} truth"))
            parse = read_labels(folder / "image-parse-v3" / f"{name}.png")
            regions.append(CIHP.worn(parse, "upper"))
            poses.append(self.slots.pose_map(read_rgb(folder / "pose" / f"{name}.png"))[0])
        return images, regions, np.stack(poses)


def score(trained: Path, raw: Path, records: Path, options: argparse.Namespace):
    """Return (columns of pictures by section, scores) of the trained model on held-out people."""
    bundle, _ = load_bundle(trained)
    slots = Slots(bundle.settings)
    held_out = HeldOut(raw, records, slots, options.test)
    sampler = Sampler(bundle, SamplerSettings(options.sampling_steps, 2.0))
    pictures: dict[str, Columns] = {}
    scores: dict[str, dict] = {"sampling_steps": options.sampling_steps, "examples": options.test}
    given = held_out.conditions()
    people, garments = from_signed(given["person"]), from_signed(given["garment"])

    scores["vae_psnr_db"] = {
        name: round(mean_psnr(round_trip(bundle, given[name]), from_signed(given[name])), 2)
        for name in (*COMPONENTS, "pose")
    }

    def dress(c):
        return try_on(sampler, c["garment"], c["face"], c["pose"], seed=SEED)

    def undress(c):
        return try_off(sampler, c["person"], c["face"], c["pose"], seed=SEED)

    worn = dress(given)
    taken = undress(given)
    garment, other_garment = influence(
        dress, given, ["garment"], people, held_out.garment_region, seed=SEED, right=worn
    )
    pose, other_pose = influence(
        dress, given, ["pose"], people, held_out.person_region, seed=SEED, right=worn
    )
    person, other_person = influence(
        undress, given, ["person", "face", "pose"], garments, None, seed=SEED, right=taken
    )
    scores["influence"] = {
        "try_on, garment (garment region)": row(garment),
        "try_on, pose (whole person)": row(pose),
        "try_off, person (whole picture)": row(person),
    }
    log.info("influence: %s", scores["influence"])

    untrained = untrained_params(bundle)
    first = {name: images[:SHOWN] for name, images in given.items()}
    blank_on = sampler("try_on", first, first["pose"], seed=SEED, params=untrained)["person"]
    blank_off = sampler("try_off", first, first["pose"], seed=SEED, params=untrained)["garment"]
    scores["against_untrained"] = {
        "try_on_db": [
            round(mean_psnr(worn[:SHOWN], people[:SHOWN], held_out.garment_region[:SHOWN]), 2),
            round(mean_psnr(blank_on, people[:SHOWN], held_out.garment_region[:SHOWN]), 2),
        ],
        "try_off_db": [
            round(mean_psnr(taken[:SHOWN], garments[:SHOWN]), 2),
            round(mean_psnr(blank_off, garments[:SHOWN]), 2),
        ],
    }

    truth, regions, _ = held_out.truths("unpaired")
    unpaired = dress({**given, "garment": held_out.unpaired})
    posed_truth, posed_regions, new_poses = held_out.truths("new_pose")
    posed = dress({**given, "pose": new_poses})
    swap = derangement(len(people), SEED)
    source = {name: images[swap] for name, images in given.items()}
    between, transferred = transfer(
        sampler, source["person"], source["face"], source["pose"], given["face"], given["pose"],
        seed=SEED,
    )  # fmt: skip
    scores["exact_truth_psnr_db"] = {
        "try_on, paired": pair(worn, people, held_out.garment_region),
        "try_on, unpaired garment": pair(unpaired, truth, regions),
        "try_on, new pose": pair(posed, posed_truth, posed_regions),
        "try_off": {"whole": round(mean_psnr(taken, garments), 2)},
        "transfer, garment taken off": {"whole": round(mean_psnr(between, garments[swap]), 2)},
    }

    shown = slice(0, SHOWN)
    faces, poses = from_signed(given["face"][shown]), from_signed(given["pose"][shown])
    pictures["Try-on: garment + face + pose -> person"] = {
        "garment": garments[shown], "face": faces, "pose": poses, "try_on": worn[shown],
        "truth": people[shown], "other garment": other_garment[shown],
        "other pose": other_pose[shown], "untrained": blank_on,
    }  # fmt: skip
    pictures["Try-off: person -> garment"] = {
        "person": people[shown], "try_off": taken[shown], "truth": garments[shown],
        "other person": other_person[shown], "untrained": blank_off,
    }  # fmt: skip
    pictures["Unpaired try-on: a garment the person never wore"] = {
        "garment": from_signed(held_out.unpaired[shown]), "face": faces, "pose": poses,
        "try_on": unpaired[shown], "truth": truth[shown],
    }  # fmt: skip
    pictures["New pose"] = {
        "garment": garments[shown], "face": faces, "pose": from_signed(new_poses[shown]),
        "try_on": posed[shown], "truth": posed_truth[shown],
    }  # fmt: skip
    pictures["Transfer: off one person, onto another"] = {
        "source": people[swap][shown], "garment": between[shown], "face": faces, "pose": poses,
        "transfer": transferred[shown],
    }  # fmt: skip
    pictures["Turntable"] = turned(sampler, held_out, slots)
    scores["bars"] = {name: gain["gain_db"] >= BAR_DB for name, gain in scores["influence"].items()}
    for name in ("try_on", "try_off"):
        trained_db, untrained_db = scores["against_untrained"][f"{name}_db"]
        scores["bars"][f"{name}, against untrained"] = trained_db - untrained_db > BAR_DB
    return pictures, scores


def turned(sampler: Sampler, held_out: HeldOut, slots: Slots) -> Columns:
    """Return one person and garment over a turn of the body: a column a view."""
    from omfa_jax.body.params_file import load_body_file
    from omfa_jax.body.poses import turntable as turn

    params, camera = load_body_file(held_out.raw / "smplx" / f"{held_out.keys[0]}.npz")
    drawn = [render_pose(p, camera, slots.pose_style, None) for p in turn(params, VIEWS)]
    poses = np.concatenate([slots.pose_map(image) for image in drawn])
    given = held_out.conditions()
    people = turntable(sampler, given["garment"][:1], given["face"][:1], poses, seed=SEED)
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
    return network_params(bundle.settings, bundle.unet_config, jax.random.key(SEED))


def row(figures: Influence) -> dict[str, float]:
    """Return one influence as plain rounded numbers."""
    values = {**dataclasses.asdict(figures), "gain_db": figures.gain_db}
    return {name: round(value, 2) for name, value in values.items()}


def pair(images, truths, regions) -> dict[str, float]:
    """Return PSNR over the whole picture and over the garment's region."""
    return {
        "whole": round(mean_psnr(images, truths), 2),
        "garment_region": round(mean_psnr(images, truths, regions), 2),
    }
