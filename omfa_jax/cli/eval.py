"""`omfa eval`: score a folder of images; also dispatches `omfa eval report` and `--checkpoint`."""

import argparse
import importlib.util
import logging
import os
import sys

from omfa_jax.cli.eval_judge import add_judge_arguments, judge_folder, make_folder_judge_settings
from omfa_jax.cli.flags import BATCH_TYPE, SEED_TYPE, WORKERS_TYPE, parse_any_path, parse_path
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_any_writable_file
from omfa_jax.core.paths import is_remote
from omfa_jax.evals.protocol_spec import PROTOCOLS
from omfa_jax.evals.scores_file import SETTINGS, Scores

log = logging.getLogger(__name__)

# (module with add_arguments and run, command)
REPORT = ("omfa_jax.cli.eval_report", "omfa eval report")
CHECKPOINT = ("omfa_jax.cli.eval_checkpoint", "omfa eval --checkpoint")


# the three modes first: a usage line with all flags would fill the first screen
USAGE = """
  omfa eval --pred DIR --gt DIR --protocol NAME --out FILE.json ...
      score a folder of images (the flags below)
  omfa eval --checkpoint DIR --data RECORDS --task TASK --out DIR ...
      sample a test split and score it (omfa eval --checkpoint DIR --help)
  omfa eval report FILE.json ... --out FILE.html
      make a page and tables from scores files (omfa eval report --help)
"""


def choose_module(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the module for the arguments after `omfa eval`, and the arguments left for it."""
    if arguments[:1] == ["report"]:
        (module, command), rest = REPORT, arguments[1:]
    # a variant has flags of its own, so it is chosen before argparse sees any
    elif any(word.split("=")[0] == "--checkpoint" for word in arguments):
        (module, command), rest = CHECKPOINT, arguments
    else:
        return __name__, arguments
    if importlib.util.find_spec(module) is None:
        raise OmfaError(f"`{command}` is not part of this version ({module} is missing)")
    return module, rest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa eval`."""
    parser.usage = USAGE
    parser.add_argument(
        "--pred", required=True, type=parse_any_path, metavar="DIR", help="folder of predictions"
    )
    parser.add_argument(
        "--gt",
        required=True,
        type=parse_any_path,
        metavar="DIR",
        help="folder of ground truth images",
    )
    parser.add_argument(
        "--garments", type=parse_any_path, metavar="DIR", help="folder of garment images"
    )
    parser.add_argument(
        "--pairs",
        type=parse_any_path,
        metavar="FILE",
        help='file with "person garment [category]" lines',
    )
    parser.add_argument(
        "--categories", type=parse_any_path, metavar="FILE", help='file with "name category" lines'
    )
    parser.add_argument(
        "--protocol", required=True, metavar="NAME", help=f"protocol: {', '.join(PROTOCOLS)}"
    )
    parser.add_argument("--setting", default="paired", help=f"setting: {', '.join(SETTINGS)}")
    parser.add_argument(
        "--metrics", metavar="A,B", help="compute only these metrics (default: all)"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=parse_any_path,
        metavar="FILE",
        help="scores file to write (.json)",
    )
    parser.add_argument("--method", help="name in tables (default: name of the --pred folder)")
    parser.add_argument(
        "--metric-weights",
        type=parse_path,
        metavar="DIR",
        help="folder of the metrics' network weights; nothing is downloaded (default: the"
        " caches of torch and Hugging Face)",
    )
    parser.add_argument(
        "--skip-checksum",
        action="store_true",
        help="use weights whose checksum differs from the published one",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="score despite missing, extra or wrong-size predictions, and report them",
    )
    for flag, default, what in (
        ("pred", "{person}", "predictions"),
        ("gt", "{person}", "ground truth images"),
        ("garment", "{garment}", "garment images"),
    ):
        parser.add_argument(
            f"--{flag}-name",
            default=default,
            metavar="RULE",
            help=f"file name template of the {what}, without suffix",
        )
    parser.add_argument(
        "--seed",
        type=SEED_TYPE,
        default=0,
        help="seed of subsets and resamples",
    )
    parser.add_argument("--device", default="cpu", help="device of the networks, cpu or cuda")
    parser.add_argument(
        "--workers",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        help="number of scoring threads, which does not affect the scores (default: all cores)",
    )
    parser.add_argument(
        "--batch-size",
        type=BATCH_TYPE,
        default=32,
        help="images scored between writes of the cache",
    )
    add_judge_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Score the folder and print the table."""
    from omfa_jax.evals.file_matching import NameRules
    from omfa_jax.evals.folder_scoring import ScoreRequest, score_folder
    from omfa_jax.evals.remote_inputs import INPUTS, copy_inputs

    # unusable settings are found now, before a scoring that may take an hour
    _require_device(options.device)
    settings = make_folder_judge_settings(options)
    if is_remote(options.out):
        require_any_writable_file(options.out, "--out")
    request = ScoreRequest(
        pred=options.pred,
        gt=options.gt,
        out=options.out,
        protocol=options.protocol,
        setting=options.setting,
        garments=options.garments,
        pairs=options.pairs,
        categories=options.categories,
        names=NameRules(options.pred_name, options.gt_name, options.garment_name),
        method=options.method,
        metrics=tuple(options.metrics.split(",")) if options.metrics else (),
        metric_weights=options.metric_weights,
        skip_checksum=options.skip_checksum,
        allow_missing=options.allow_missing,
        seed=options.seed,
        device=options.device,
        workers=options.workers,
        batch_size=options.batch_size,
    )
    with copy_inputs(request) as local:
        scores = score_folder(local)
        if settings:
            copies = {name: getattr(local, name) for name in INPUTS}
            scores = judge_folder(argparse.Namespace(**vars(options) | copies), settings, scores)
    print(format_scores(scores))
    # stdout has the table alone, for pipes
    print(f"scores: {options.out}", file=sys.stderr)


def format_scores(scores: Scores) -> str:
    """Return the scores as lines of text."""
    counts = scores.counts
    protocol = scores.protocol
    lines = [
        f"{scores.method}: {counts.scored} of {counts.pairs} images,"
        f" protocol {protocol.name}, {protocol.setting}"
    ]
    for metric in scores.metrics.values():
        arrow = "↑" if metric.better == "higher" else "↓"
        if metric.value is None:
            lines.append(f"  {metric.label:18} {arrow}  not computed: {metric.not_computed}")
            continue
        low_high = metric.interval
        spread = f"  [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""
        lines.append(f"  {metric.label:18} {arrow}  {metric.value:.4f}{spread}")
    problems = (("missing", len(counts.missing)), ("extra", len(counts.extra)))
    for what, number in (*problems, ("resized", counts.resized)):
        if number:
            lines.append(f"  {what}: {number}")
    return "\n".join(lines)


def _require_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    if device.split(":")[0] != "cuda" or not torch.cuda.is_available():
        raise OmfaError(f"--device must be cpu, or cuda if torch finds a GPU, got {device!r}")
    # TF32 and nondeterministic kernels would change the scores between runs
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
