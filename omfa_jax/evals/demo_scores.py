"""The demo's scores: held-out people and garments against the synthetic world's exact truth."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omfa_jax.core.images import from_signed, to_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.evals.demo_columns import (
    NUM_SHOWN,
    SEED,
    Columns,
    collect_sections,
    sample_transfer,
    sample_turntable,
    stack_inputs,
)
from omfa_jax.evals.demo_photo import PHOTO_ALONE, make_photo_case, sample_photo_alone
from omfa_jax.evals.exact_truth import ConditionRegions, ExactTruth
from omfa_jax.evals.folder_scoring import ScoreRequest, score_folder
from omfa_jax.evals.prediction_sampling import claim_folder, sample_to_folder
from omfa_jax.evals.psnr import mean_psnr
from omfa_jax.evals.scores_file import write_scores
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import SplitRun, compute_influence, compute_truth_scores
from omfa_jax.models import decode, encode
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.sampling.grouped_sampling import get_busy_devices
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.train.checkpoints.checkpoint_weights import load_checkpoint_model
from omfa_jax.weights.weights_digest import compute_weights_digest

log = logging.getLogger(__name__)

# minimum gain of a trained model from the right condition, and over an untrained model
MIN_GAIN_DB = 3.0
# condition of the influence block -> its name in the report
ROWS = {
    "garment": "try_on, garment (garment region)",
    "pose": "try_on, pose (complete person)",
    "person": "try_off, person (complete image)",
}


def score_demo(
    trained: Path, raw: Path, records: Path, *, examples: int, sampling_steps: int
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """Return (columns of images by section, scores) of the trained model on held-out people.

    Next to `trained`, eval/tiny and eval/untrained hold the predictions, eval/tiny.json and
    eval/untrained.json the scores, and photo_alone the photo of which nothing else is used. The
    untrained model samples only the first few.
    """
    model, _ = load_checkpoint_model(trained)
    folder, slots = trained.parent / "eval", SlotFitter(model.settings)
    # the report's lead states the guidance
    settings = SamplerSettings(sampling_steps, 2.0)
    sampler = Sampler(model, settings, devices=get_busy_devices(examples))
    pipeline = PipelineSettings(str(records), slots.sizes, threads=0)
    on = EvalSplit(pipeline, "test", "paired", limit=examples)
    off, first = on.with_setting("try_off"), on.take(min(NUM_SHOWN, len(on)))
    facts = {"sampler": dataclasses.asdict(settings), "seed": SEED, "weights": "untrained"}
    untrained = make_split_sampler(
        sampler, folder / "untrained", facts, params=draw_untrained_params(model)
    )
    # a few are enough to show that training has had an effect
    untrained_on, untrained_off = untrained(first), untrained(first.with_setting("try_off"))
    tiny = make_split_sampler(
        sampler, folder / "tiny", facts | {"weights": compute_weights_digest(model)}
    )
    try_on, try_off = tiny(on), tiny(off)
    for condition in ("garment", "pose"):
        try_on.sample_swapped(condition)
    try_off.sample_swapped("person")
    truth = ExactTruth(raw)
    answers = {
        "unpaired": dataclasses.replace(
            try_on, split=on.with_setting("unpaired")
        ).sample_truth_cases(truth, "unpaired"),
        "new_pose": try_on.sample_truth_cases(truth, "new_pose"),
    }
    influence = compute_influence(try_on, ["garment", "pose"], regions=ConditionRegions(raw))
    influence |= compute_influence(try_off, ["person"])
    exact = compute_truth_scores(try_on, truth, answers)
    write_score_files(folder, {"tiny": try_on, "untrained": untrained_on}, influence, exact)

    given = stack_inputs(on)
    scores: dict[str, Any] = {"sampling_steps": sampling_steps, "examples": len(on)}
    scores["vae_psnr_db"] = {
        name: round(mean_psnr(encode_and_decode(model, to_signed(given[name])), given[name]), 2)
        for name in (*COMPONENTS, "pose")
    }
    scores["influence"] = {ROWS[name]: format_influence(found) for name, found in influence.items()}
    log.info("influence: %s", scores["influence"])
    region = make_region_lookup(raw, on)
    off_db = try_off.compute_values(try_off.folder / "pred", "psnr", try_off.read_ground_truth)
    on_db = try_on.compute_values(try_on.folder / "pred", "psnr", try_on.read_ground_truth, region)
    blank_db = untrained_on.compute_values(
        untrained_on.folder / "pred", "psnr", untrained_on.read_ground_truth, region
    )
    none_db = untrained_off.compute_values(
        untrained_off.folder / "pred", "psnr", untrained_off.read_ground_truth
    )
    scores["against_untrained"] = {
        "examples": len(first),
        # both over the examples that the untrained model has sampled
        "try_on_db": [round_mean(on_db[:NUM_SHOWN]), round_mean(blank_db)],
        "try_off_db": [round_mean(off_db[:NUM_SHOWN]), round_mean(none_db)],
    }
    whole = try_on.compute_values(try_on.folder / "pred", "psnr", try_on.read_ground_truth)
    scores["exact_truth_psnr_db"] = {
        "try_on, paired": {"whole": round_mean(whole), "garment_region": round_mean(on_db)},
        "try_on, unpaired garment": format_exact(exact["unpaired"]),
        "try_on, new pose": format_exact(exact["new_pose"]),
        "try_off": {"whole": round_mean(off_db)},
    }
    scores["bars"] = {
        name: found["gain_db"] >= MIN_GAIN_DB for name, found in scores["influence"].items()
    }
    for name in ("try_on", "try_off"):
        trained_db, untrained_db = scores["against_untrained"][f"{name}_db"]
        scores["bars"][f"{name}, against untrained"] = trained_db - untrained_db > MIN_GAIN_DB

    # both sample one picture at a time, with one program
    single = Sampler(model, settings)
    case = make_photo_case(on, raw, truth, trained.parent / "photo_alone")
    alone, scores["photo_alone"] = sample_photo_alone(single, slots, case)
    sheets = {PHOTO_ALONE: alone}
    sheets |= collect_sections(try_on, try_off, untrained_on, untrained_off, truth)
    sheets["Transfer: off one person, onto another"] = sample_transfer(try_on, try_off)
    sheets["Turntable"] = sample_turntable(single, raw, on, slots)
    return sheets, scores


def make_split_sampler(
    sampler: Sampler, folder: Path, facts: dict[str, Any], params: Any = None
) -> Callable[[EvalSplit], SplitRun]:
    """Return a function that samples a split into `folder`/TASK, next to its ground truth."""
    # transferred once, not with every batch
    placed = None if params is None else sampler.replicate(params)

    def run(split: EvalSplit) -> SplitRun:
        place = folder / split.task
        # overwrite: the demo owns its folder and may have been run with other settings
        claim_folder(place, facts, overwrite=True)
        split.write_ground_truth(place)
        sample = functools.partial(sample_to_folder, sampler, seed=SEED, params=placed)
        made = SplitRun(split, place, SEED, sample)
        made.sample_predictions()
        return made

    return run


def write_score_files(
    folder: Path, runs: dict[str, SplitRun], influence: dict[str, Any], exact: dict[str, Any]
) -> None:
    """Write the scores file of each model's try-on; the trained one's has all blocks."""
    for name, run in runs.items():
        place, file = run.folder, folder / f"{name}.json"
        # an earlier run's scores are of other images
        file.unlink(missing_ok=True)
        scores = score_folder(
            ScoreRequest(
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


def make_region_lookup(raw: Path, split: EvalSplit) -> Callable[[int], np.ndarray | None]:
    """Return a function from an example's position to the region of its worn garment."""
    regions = ConditionRegions(raw)
    return lambda place: regions.read_region(split.names[place], "garment", "upper")


def encode_and_decode(model, images: np.ndarray) -> np.ndarray:
    """Return images after the VAE alone, an upper bound for every other score."""
    run = jax.jit(
        lambda params, x: decode(model.vae_config, params, encode(model.vae_config, params, x))
    )
    return from_signed(np.asarray(run(model.vae_params, images)))


def draw_untrained_params(model):
    """Return the same network with random weights."""
    key, reference = jax.random.key(SEED), model.settings.reference
    return init_network_params(model.unet_config, key, has_reference=reference)


def format_influence(found: dict[str, Any]) -> dict[str, Any]:
    """Return one condition of the influence block in dB, rounded."""
    values = {f"{name}_db": round(found[name], 2) for name in ("right", "wrong", "gain")}
    return values | {"interval_db": [round(end, 2) for end in found["interval"]]}


def format_exact(found: dict[str, float]) -> dict[str, float]:
    """Return PSNR over the full image and over the garment's region, rounded."""
    return {
        "whole": round(found["psnr"], 2),
        "garment_region": round(found["psnr_garment_region"], 2),
    }


def round_mean(values: Sequence[float]) -> float:
    """Return the mean, rounded."""
    return round(float(np.mean(values)), 2)
