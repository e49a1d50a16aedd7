"""The flags of `omfa eval --checkpoint`."""

import argparse
import os

from omfa_jax.cli.flags import (
    BATCH_MAX,
    WORKERS_TYPE,
    int_between,
    parse_any_path_text,
    parse_path,
)
from omfa_jax.cli.sampler_flags import add_checkpoint_flags, add_sampler_flags
from omfa_jax.evals.heldout_loss import NOISE_LEVELS
from omfa_jax.evals.protocol_spec import PROTOCOLS
from omfa_jax.evals.scores_file import SETTINGS

# task -> settings that protocols cover; the first is the default
TASK_SETTINGS = {"try_on": ("paired", "unpaired", "multi_pose"), "try_off": ("try_off",)}
DTYPES = ("float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa eval --checkpoint`."""
    add = parser.add_argument
    add_checkpoint_flags(parser)
    add(
        "--data",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="image records (latents are enough for --loss only)",
    )
    add("--split", default="test", help="split of the records")
    tasks = " | ".join(TASK_SETTINGS)
    add("--task", metavar="TASK", help=f"{tasks}, or any other task of the model")
    add("--setting", help=f"setting: {', '.join(SETTINGS)} (default: paired for try_on)")
    add(
        "--out",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="folder for images and scores.json, shared by all hosts",
    )
    add(
        "--limit",
        type=int_between(1),
        metavar="N",
        help="evaluate only the first N examples (default: all)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="delete the images and scores in --out and start over",
    )
    add_sampler_flags(parser)
    add(
        # not auto, as in `omfa sample`: scores must not depend on the kind of device
        "--dtype",
        default="float32",
        help="compute dtype, float32 or bfloat16",
    )
    add(
        "--batch-size",
        type=int_between(0, BATCH_MAX),
        default=0,
        help="examples in flight (affects memory only; 0 = 8 per device)",
    )
    add(
        "--protocol",
        default="omfa",
        metavar="NAME",
        help=f"evaluation protocol: {', '.join(PROTOCOLS)}",
    )
    add("--method", help="name in tables (default: name of the checkpoint folder)")
    add(
        "--metric-weights",
        type=parse_path,
        metavar="DIR",
        help="folder of the metrics' network weights; nothing is downloaded (default: the"
        " caches of torch and Hugging Face)",
    )
    add(
        "--skip-checksum",
        action="store_true",
        help="use weights whose checksum differs from the published one",
    )
    # PyTorch's device: with cuda its networks share the GPU's memory with JAX
    add("--device", default="cpu", help="device of the metrics, cpu or cuda")
    add(
        "--workers",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        help="number of scoring threads (default: all cores)",
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
        help="per-image metric of the influence",
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
        help="raw folder of synthetic data, to score against the exact ground truth, by region",
    )
    add("--loss", action="store_true", help="compute the held-out loss")
    add(
        "--loss-examples",
        type=int_between(1),
        default=256,
        metavar="N",
        help="examples of the held-out loss",
    )
    add(
        "--loss-timesteps",
        type=int_between(NOISE_LEVELS, 1000, multiple_of=NOISE_LEVELS),
        default=16,
        metavar="N",
        help="noise levels of the held-out loss, a multiple of 4",
    )
