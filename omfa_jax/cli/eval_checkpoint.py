"""`omfa eval --checkpoint`: sample a test split from a checkpoint, then score it."""

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omfa_jax import __version__
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import atomic_write, only_user_of, require_writable_dir
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.steppers import STEPPERS
from omfa_jax.evals.protocol import PROTOCOLS
from omfa_jax.evals.scores import SETTINGS

log = logging.getLogger(__name__)

ALL = "all"
SCORES_FILE, LOSS_FILE = "scores.json", "loss.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa eval --checkpoint`."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="workdir, step or model folder")
    add("--data", required=True, metavar="DIR", help="image records; latents for --loss alone")
    add("--split", default="test")
    add("--task", metavar="TASK", help="try_on | try_off; without it --loss alone")
    add("--setting", help=f"{' | '.join(SETTINGS)}; default: paired for try_on")
    add("--out", required=True, metavar="DIR", help="pictures, scores.json; shared by all hosts")
    add("--limit", type=int, metavar="N", help="the first N examples")
    add("--restart", action="store_true", help="delete another run's pictures in --out")
    add("--steps", type=int, default=50, help="denoising steps")
    add("--sampler", default="ddim", metavar="NAME", help=" | ".join(STEPPERS))
    add("--guidance", type=float, default=2.0)
    add("--guidance-rescale", type=float, default=0.0, metavar="PHI", help="0 to 1; 0 = off")
    add("--seed", type=int, default=0)
    add("--raw-weights", action="store_true", help="not the EMA")
    add("--dtype", default="float32", help="float32 or bfloat16: what the networks compute in")
    add("--batch-size", type=int, default=0, help="examples on the way; pictures do not change")
    add("--protocol", default="omfa", metavar="NAME", help=", ".join(PROTOCOLS))
    add("--method", help="its name in tables; default: the checkpoint's folder")
    add("--networks", type=Path, metavar="DIR", help="weights of the metrics' networks")
    add("--any-weights", action="store_true", help="use weights with another checksum")
    add("--device", default="cpu", help="cpu or cuda, of the metrics' networks")
    add("--workers", type=int, default=os.cpu_count() or 1, help="threads that score")
    add(
        "--influence",
        nargs="?",
        const=ALL,
        metavar="CONDITIONS",
        help="score with another example's garment,face,pose too (default: each)",
    )
    add("--influence-metric", default="psnr", metavar="NAME", help="any metric per image")
    add("--regions", type=Path, metavar="RAW", help="raw folder with parse maps: PSNR by region")
    add("--truth", type=Path, metavar="RAW", help="a synthetic raw folder: exact answers, regions")
    add("--loss", action="store_true", help="the held-out loss")
    add("--loss-examples", type=int, default=256, metavar="N")
    add("--loss-timesteps", type=int, default=16, metavar="N", help="noise levels, a multiple of 4")


def run(options: argparse.Namespace) -> None:
    """Sample and score as the flags say."""
    check(options)
    out = require_writable_dir(options.out, "--out")

    import jax

    from omfa_jax.cli.sample import load_checkpoint
    from omfa_jax.parallel import distributed
    from omfa_jax.parallel.flags import set_flags

    set_flags()
    distributed.initialize(out)
    flags = {name: str(value) for name, value in vars(options).items()}
    facts = {"the code's revision": distributed.revision(), "the flags": json.dumps(flags)}
    distributed.require_same(facts)
    with only_user_of(out) if jax.process_index() == 0 else contextlib.nullcontext():
        bundle = load_checkpoint(options.checkpoint, ema=not options.raw_weights)
        if options.loss:
            write_loss(bundle, options, out)
        if options.task:
            evaluate(bundle, options, out)


def check(options: argparse.Namespace) -> None:
    """Raise an OmfaError for flags that cannot be used together; fill in the setting."""
    if options.task is None:
        if not options.loss or options.setting:
            raise OmfaError("omfa eval --checkpoint needs --task try_on or try_off, or --loss")
        return
    own = {"try_on": ("paired", "unpaired", "multi_pose"), "try_off": ("try_off",)}
    if options.task not in own:
        raise unknown("task (--task)", options.task, own)
    options.setting = options.setting or own[options.task][0]
    if options.setting not in own[options.task]:
        raise OmfaError(
            f"--task {options.task} has the settings {', '.join(own[options.task])},"
            f" got --setting {options.setting}"
        )
    if not 0 <= options.seed < 2**32:
        raise OmfaError(f"--seed: expected 0 to {2**32 - 1}, got {options.seed}")
    if options.limit is not None and options.limit < 1:
        raise OmfaError(f"--limit must be at least 1, got {options.limit}")
    if options.influence and options.setting == "unpaired":
        raise OmfaError("--influence needs a ground truth: it is not for --setting unpaired")
    if options.truth and options.task != "try_on":
        raise OmfaError("--truth has answers for --task try_on alone; leave it out")
    options.regions = options.regions or options.truth


def evaluate(bundle: Any, options: argparse.Namespace, out: Path) -> None:
    """Sample one setting of the split, score it and write OUT/scores.json (process 0)."""
    import jax

    from omfa_jax.diffusion.sample import SamplerSettings
    from omfa_jax.evals.examples import Split
    from omfa_jax.evals.influence import CONDITIONS
    from omfa_jax.evals.predictions import ROWS, claim, weights_digest
    from omfa_jax.evals.split import SplitRun, influence_of, truth_of
    from omfa_jax.evals.truth import KINDS, Regions, Truth
    from omfa_jax.sampling.generate import Sampler

    settings = SamplerSettings(
        options.steps, options.guidance, options.sampler, options.guidance_rescale
    )
    split = Split(
        pipeline_of(bundle, options.data),
        options.split,
        options.setting,
        limit=options.limit,
        seed=options.seed,
    )
    conditions = conditions_of(options, CONDITIONS[split.task])
    truth = Truth(options.truth, options.split) if options.truth else None
    regions = Regions(options.regions, options.split) if options.regions else None
    facts = {
        "checkpoint": weights_digest(bundle),
        "data": records_digest(Path(options.data)),
        "split": options.split,
        "setting": options.setting,
        "limit": options.limit,
        "seed": options.seed,
        "sampler": dataclasses.asdict(settings),
        "dtype": options.dtype,
        "rows": ROWS,
        "omfa_jax": __version__,
    }

    def prepare() -> None:
        claim(out, facts, restart=options.restart)
        split.write_truth(out)

    on_main(prepare)
    sampler = Sampler(bundle, settings, dtype=options.dtype, devices=jax.local_devices())
    sampled = SplitRun(split, out, options.seed, together(sampler, options))
    predictions = sampled.predictions()
    for condition in conditions:
        sampled.swapped(condition)
    answers = {}
    for kind in KINDS if truth else ():
        same = kind == options.setting
        answers[kind] = predictions if same else answered(sampled, truth, kind, options)
    if jax.process_index():
        return

    scores = scored(options, out, predictions, out / SCORES_FILE)
    influence = None
    if conditions:
        metric = options.influence_metric
        per_image = None
        if metric not in ("psnr", "ssim"):
            per_image = functools.partial(metric_values, options, out, split.names, metric)
        influence = influence_of(
            sampled, conditions, metric=metric, regions=regions, per_image=per_image
        )
    exact = truth_of(sampled, truth, answers) if truth else None
    finish(scores, influence, exact, out / SCORES_FILE)


def answered(sampled: Any, truth: Any, kind: str, options: argparse.Namespace) -> Path:
    """Sample the pictures whose exact answer the synthetic world has."""
    if kind == "unpaired":
        # the same people with the other garments
        other = sampled.split.under("unpaired")
        sampled = dataclasses.replace(sampled, split=other)
    return sampled.answered(truth, kind)


def conditions_of(options: argparse.Namespace, known: Sequence[str]) -> list[str]:
    """Return the conditions of --influence: none, each of the task's, or those that it names."""
    if not options.influence:
        return []
    if options.influence == ALL:
        return list(known)
    asked = options.influence.split(",")
    for name in asked:
        if name not in known:
            raise unknown("condition (--influence)", name, known)
    return asked


def together(sampler: Any, options: argparse.Namespace) -> Callable[[Any], int]:
    """Return how all processes sample one piece of work: each its share, then they meet."""
    import jax

    from omfa_jax.evals.predictions import sample_to_folder
    from omfa_jax.parallel.distributed import any_process

    def sample(work: Any) -> int:
        wrote, failed = 0, None
        try:
            wrote = sample_to_folder(
                sampler,
                work,
                seed=options.seed,
                batch_size=options.batch_size,
                process=jax.process_index(),
                processes=jax.process_count(),
            )
        except Exception as error:
            # the others would wait for this one for ever
            failed = error
        if any_process(failed is not None):
            raise failed or OmfaError("another process of this job failed; its log says why")
        return wrote

    return sample


def on_main(work: Callable[[], None]) -> None:
    """Do something on process 0; all processes go on when it is done, or fail as it does."""
    import jax

    from omfa_jax.parallel.distributed import any_process

    failed = None
    if jax.process_index() == 0:
        try:
            work()
        except (OmfaError, OSError) as error:
            failed = error
    if any_process(failed is not None):
        raise failed or OmfaError("process 0 of this job failed; its log says why")


def scored(options: argparse.Namespace, out: Path, pred: Path, file: Path) -> Any:
    """Return the scores of a folder of predictions under the protocol, written to `file`."""
    from omfa_jax.evals.folder import Request, score_folder

    with_garments = options.setting != "try_off"
    return score_folder(
        Request(
            pred=pred,
            gt=out / "gt",
            out=file,
            protocol=options.protocol,
            setting=options.setting,
            garments=out / "garments" if with_garments else None,
            pairs=out / "pairs.txt",
            method=options.method or Path(options.checkpoint).resolve().name,
            networks=options.networks,
            any_weights=options.any_weights,
            seed=options.seed,
            device=options.device,
            workers=options.workers,
        )
    )


def metric_values(
    options: argparse.Namespace, out: Path, names: Sequence[str], metric: str, folder: Path
) -> tuple[list[float], str]:
    """Return (the metric of each picture of a folder, in the order of `names`; which is better)."""
    scores = scored(options, out, folder, out / f"{folder.name}.json")
    if metric not in scores.per_image.values:
        raise unknown("metric per image (--influence-metric)", metric, scores.per_image.values)
    found = dict(zip(scores.per_image.names, scores.per_image.values[metric], strict=True))
    return [found[name] for name in names], scores.metrics[metric].better


def finish(
    scores: Any, influence: dict[str, Any] | None, truth: dict[str, Any] | None, file: Path
) -> None:
    """Add the blocks to the scores file and print all of it."""
    from omfa_jax.cli.eval import table
    from omfa_jax.evals.scores import write_scores

    scores = dataclasses.replace(scores, influence=influence, truth=truth)
    write_scores(file, scores)
    print(table(scores))
    for name, row in (influence or {}).items():
        low, high = row["interval"]
        print(
            f"  {name}: {row['metric']} {row['right']:.4f}, with another {row['wrong']:.4f}:"
            f" gain {row['gain']:.4f} [{low:.4f}, {high:.4f}] ({row['region']})"
        )
    for name, row in (truth or {}).items():
        figures = ", ".join(f"{metric} {value:.4f}" for metric, value in row.items())
        print(f"  exact truth, {name}: {figures}")
    log.info("scores: %s", file)


def pipeline_of(bundle: Any, data: str) -> Any:
    """Return the settings that read a records folder as the model takes it."""
    from omfa_jax.cli.startup import vae_fingerprint
    from omfa_jax.data.schema import read_manifest
    from omfa_jax.data.settings import PipelineSettings

    latents = read_manifest(data)["kind"] == "latents"
    return PipelineSettings(
        data,
        dict(zip(COMPONENTS, bundle.settings.slots_px, strict=True)),
        vae_id=vae_fingerprint(bundle.vae_config, bundle.vae_params) if latents else "",
        pose_style=bundle.settings.pose_style,
    )


def records_digest(folder: Path) -> str:
    """Return a digest of a records folder's manifest and of its files' sizes."""
    import hashlib

    from omfa_jax.data.schema import MANIFEST, read_manifest

    place = folder / read_manifest(folder)["builder"]
    files = sorted((path.name, path.stat().st_size) for path in place.glob("*.array_record*"))
    text = (folder / MANIFEST).read_text()
    return hashlib.sha256(f"{text}{files}".encode()).hexdigest()


def write_loss(bundle: Any, options: argparse.Namespace, out: Path) -> None:
    """Measure the held-out loss of --data, print it, and write OUT/loss.json (process 0)."""
    import jax

    from omfa_jax.cli.evaluation import held_out_loss
    from omfa_jax.evals.heldout import HeldOutSettings
    from omfa_jax.parallel.feed import place
    from omfa_jax.parallel.mesh import MeshSettings, make_mesh, replicated

    measure = HeldOutSettings(options.loss_examples, options.loss_timesteps, options.seed)
    mesh = make_mesh(MeshSettings())
    whole = replicated(mesh)
    shardings = jax.tree.map(lambda _: whole, bundle.unet_params)
    evaluate_loss = held_out_loss(
        bundle,
        pipeline_of(bundle, options.data),
        options.split,
        measure,
        mesh,
        shardings,
        dtype=options.dtype,
    )
    loss = evaluate_loss(place(bundle.unet_params, shardings))
    if jax.process_index():
        return
    content = {
        "checkpoint": str(options.checkpoint),
        "data": str(options.data),
        "split": options.split,
        "seed": options.seed,
        "examples": len(loss.keys),
        "timesteps": list(loss.timesteps),
        "prediction": bundle.settings.prediction,
        "standard_error": loss.standard_error,
        **loss.scalars(),
    }
    with atomic_write(out / LOSS_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    for name, value in loss.scalars().items():
        print(f"  {name:16} {value:.6f}")
    log.info("loss: %s", out / LOSS_FILE)
