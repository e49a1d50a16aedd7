"""The flags of `omfa eval --checkpoint`."""

import argparse
import os

from omfa_jax.cli.flags import (
    BATCH_MAX,
    SEED_TYPE,
    WORKERS_TYPE,
    int_between,
    make_rule_type,
    parse_path,
    parse_path_text,
)
from omfa_jax.diffusion.denoising_loop import SAMPLER_RULES
from omfa_jax.diffusion.samplers import SAMPLERS
from omfa_jax.evals.heldout_loss import NOISE_LEVELS
from omfa_jax.evals.protocol_spec import PROTOCOLS
from omfa_jax.evals.scores_file import SETTINGS

# task -> settings that protocols cover; the first is the default
TASK_SETTINGS = {"try_on": ("paired", "unpaired", "multi_pose"), "try_off": ("try_off",)}
DTYPES = ("float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa eval --checkpoint`."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=parse_path_text,
        metavar="DIR",
        help="training workdir, one of its steps, or model folder",
    )
    add(
        "--data",
        required=True,
        type=parse_path_text,
        metavar="DIR",
        help="image records (latents are enough for --loss only)",
    )
    add("--split", default="test", help="split of the records (default: %(default)s)")
    tasks = " | ".join(TASK_SETTINGS)
    add("--task", metavar="TASK", help=f"{tasks}, or any other task of the model")
    add("--setting", help=f"{' | '.join(SETTINGS)} (default: paired for try_on)")
    add(
        "--out",
        required=True,
        type=parse_path_text,
        metavar="DIR",
        help="folder for images and scores.json, shared by all hosts",
    )
    add("--limit", type=int_between(1), metavar="N", help="evaluate only the first N examples")
    add("--restart", action="store_true", help="delete the images of another run in --out")
    add(
        "--steps",
        type=make_rule_type(SAMPLER_RULES["steps"]),
        default=50,
        help="denoising steps (default: %(default)s)",
    )
    samplers = " | ".join(SAMPLERS)
    add("--sampler", default="ddim", metavar="NAME", help=f"{samplers} (default: %(default)s)")
    add(
        "--guidance",
        type=make_rule_type(SAMPLER_RULES["guidance"]),
        default=2.0,
        help="classifier-free guidance scale; 1 disables guidance (default: %(default)s)",
    )
    add(
        "--guidance-rescale",
        type=make_rule_type(SAMPLER_RULES["guidance_rescale"]),
        default=0.0,
        metavar="PHI",
        help="guidance rescale factor, 0 to 1; 0 disables it (default: %(default)s)",
    )
    add(
        "--seed",
        type=SEED_TYPE,
        default=0,
        help="random seed of the initial noise (default: %(default)s)",
    )
    add(
        "--no-ema",
        action="store_true",
        help="use the trained weights instead of their moving average (EMA)",
    )
    add(
        "--dtype",
        default="float32",
        help="compute dtype, float32 or bfloat16 (default: %(default)s)",
    )
    add(
        "--batch-size",
        type=int_between(0, BATCH_MAX),
        default=0,
        help="examples in flight, which affects memory and not the images; 0: 8 per device"
        " (default: %(default)s)",
    )
    add(
        "--protocol",
        default="omfa",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)} (default: %(default)s)",
    )
    add("--method", help="name in tables (default: name of the checkpoint folder)")
    add(
        "--metric-weights",
        type=parse_path,
        metavar="DIR",
        help="folder of the metrics' network weights; nothing is downloaded",
    )
    add(
        "--skip-checksum",
        action="store_true",
        help="use weights whose checksum differs from the published one",
    )
    add("--device", default="cpu", help="device of the metrics, cpu or cuda (default: %(default)s)")
    add(
        "--workers",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        help="scoring threads (default: number of cores)",
    )
    add(
        "--influence",
        nargs="?",
        const="all",
        metavar="CONDITIONS",
        help="measure the influence of conditions, e.g. garment,face,pose (without a value: all)",
    )
    add(
        "--influence-metric",
        default="psnr",
        metavar="NAME",
        help="per-image metric of the influence (default: %(default)s)",
    )
    add(
        "--regions",
        type=parse_path,
        metavar="RAW",
        help="raw folder with parse maps, to measure PSNR by region",
    )
    add(
        "--truth",
        type=parse_path,
        metavar="RAW",
        help="raw folder of synthetic data, to score against exact answers and by region",
    )
    add("--loss", action="store_true", help="compute the held-out loss")
    add(
        "--loss-examples",
        type=int_between(1),
        default=256,
        metavar="N",
        help="examples of the held-out loss (default: %(default)s)",
    )
    add(
        "--loss-timesteps",
        type=int_between(NOISE_LEVELS, 1000, multiple_of=NOISE_LEVELS),
        default=16,
        metavar="N",
        help="noise levels of the held-out loss, a multiple of 4 (default: %(default)s)",
    )
