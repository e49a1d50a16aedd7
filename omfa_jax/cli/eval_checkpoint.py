"""`omfa eval --checkpoint`: sample a test split from a checkpoint, then score it."""

import argparse
import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from omfa_jax.cli.flags import BATCH_MAX, SEED, WORKERS, of, path_text, to_path, whole
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import LOCK, atomic_write, exclusive_lock, require_writable_dir
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.sample import SAMPLER
from omfa_jax.diffusion.steppers import STEPPERS
from omfa_jax.evals.heldout import NOISE_LEVELS
from omfa_jax.evals.protocol import PROTOCOLS
from omfa_jax.evals.scores import SETTINGS

log = logging.getLogger(__name__)

LOSS_FILE = "loss.json"
DTYPES = ("float32", "bfloat16")

# it may be one process of several, which end together
JOINS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa eval --checkpoint`."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=path_text,
        metavar="DIR",
        help="workdir, step or model folder",
    )
    add(
        "--data",
        required=True,
        type=path_text,
        metavar="DIR",
        help="image records; latents for --loss alone",
    )
    add("--split", default="test")
    add("--task", metavar="TASK", help="try_on | try_off; without it --loss alone")
    add("--setting", help=f"{' | '.join(SETTINGS)}; default: paired for try_on")
    add(
        "--out",
        required=True,
        type=path_text,
        metavar="DIR",
        help="pictures, scores.json; shared by all hosts",
    )
    add("--limit", type=whole(1), metavar="N", help="the first N examples")
    add("--restart", action="store_true", help="delete another run's pictures in --out")
    add("--steps", type=of(SAMPLER["steps"]), default=50, help="denoising steps")
    add("--sampler", default="ddim", metavar="NAME", help=" | ".join(STEPPERS))
    add("--guidance", type=of(SAMPLER["guidance"]), default=2.0)
    add(
        "--guidance-rescale",
        type=of(SAMPLER["guidance_rescale"]),
        default=0.0,
        metavar="PHI",
        help="0 to 1; 0 = off",
    )
    add("--seed", type=SEED, default=0)
    add("--raw-weights", action="store_true", help="not the EMA")
    add("--dtype", default="float32", help="float32 or bfloat16: what the networks compute in")
    add(
        "--batch-size",
        type=whole(0, BATCH_MAX),
        default=0,
        help="examples on the way; pictures do not change",
    )
    add("--protocol", default="omfa", metavar="NAME", help=", ".join(PROTOCOLS))
    add("--method", help="its name in tables; default: the checkpoint's folder")
    add("--networks", type=to_path, metavar="DIR", help="weights of the metrics' networks")
    add("--any-weights", action="store_true", help="use weights with another checksum")
    add("--device", default="cpu", help="cpu or cuda, of the metrics' networks")
    add("--workers", type=WORKERS, default=os.cpu_count() or 1, help="threads that score")
    add(
        "--influence",
        nargs="?",
        const="all",
        metavar="CONDITIONS",
        help="score with another example's garment,face,pose too (default: each)",
    )
    add("--influence-metric", default="psnr", metavar="NAME", help="any metric per image")
    add("--regions", type=to_path, metavar="RAW", help="raw folder with parse maps: PSNR by region")
    add(
        "--truth",
        type=to_path,
        metavar="RAW",
        help="a synthetic raw folder: exact answers, regions",
    )
    add("--loss", action="store_true", help="the held-out loss")
    add("--loss-examples", type=whole(1), default=256, metavar="N")
    add(
        "--loss-timesteps",
        type=whole(NOISE_LEVELS, 1000, multiple_of=NOISE_LEVELS),
        default=16,
        metavar="N",
        help="noise levels, a multiple of 4",
    )


def run(options: argparse.Namespace) -> None:
    """Sample and score as the flags say."""
    check(options)
    out = require_writable_dir(options.out, "--out")

    import jax

    from omfa_jax.cli.sample import load_checkpoint
    from omfa_jax.parallel import distributed
    from omfa_jax.parallel.flags import leave_memory

    if options.device.startswith("cuda"):
        leave_memory("the metrics' networks (--device cuda)")
    distributed.initialize(out)
    flags = {name: str(value) for name, value in vars(options).items()}
    facts = {"the code's revision": distributed.revision(), "the flags": json.dumps(flags)}
    distributed.require_same(facts)
    refusal = f"another run is using {out}: stop it, or give another folder to --out"
    lock = exclusive_lock(out / LOCK, refusal)
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
        bundle = load_checkpoint(options.checkpoint, ema=not options.raw_weights)
        if bundle.unet_params is None:
            raise OmfaError(f"{options.checkpoint} has no UNet weights; give a trained model")
        if options.loss:
            write_loss(bundle, options, out)
        if options.task:
            from omfa_jax.cli.eval_split import evaluate

            evaluate(bundle, options, pipeline_of(bundle, options.data), out)


def check(options: argparse.Namespace) -> None:
    """Raise an OmfaError for flags that cannot be used together; fill in the setting."""
    if options.dtype not in DTYPES:
        raise unknown("type (--dtype)", options.dtype, DTYPES)
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
    if options.influence and options.setting == "unpaired":
        raise OmfaError("--influence needs a ground truth: it is not for --setting unpaired")
    if options.truth and options.task != "try_on":
        raise OmfaError("--truth has answers for --task try_on alone; leave it out")
    options.regions = options.regions or options.truth


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
