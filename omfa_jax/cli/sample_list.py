"""`omfa sample --pairs`: sample a list of people and garments into a folder."""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.flags import BATCH_MAX, int_between, parse_any_path, parse_any_path_text
from omfa_jax.cli.output_lock import join_and_lock
from omfa_jax.cli.sampler_flags import (
    SAMPLE_DTYPES,
    add_checkpoint_flags,
    add_sampler_flags,
    make_sampler_settings,
)
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.path_checks import require_any_dir, require_any_file, require_any_writable_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.tasks import Task

if TYPE_CHECKING:
    from omfa_jax.sampling.pair_names import PairPicture
    from omfa_jax.sampling.pairs_folder import PairsFolder
    from omfa_jax.sampling.pairs_sampling import PairInputs

HELP = "generate a picture for each pair of a list"
PROG = "omfa sample --pairs"
# one of several processes may be this one, and they exit together
JOINS = True
MAX_ROWS = 1024
FAILURES_SHOWN = 10

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa sample --pairs`."""
    add = parser.add_argument
    add_checkpoint_flags(parser)
    add(
        "--pairs",
        type=parse_any_path,
        metavar="FILE",
        help='list with "person garment" lines (names with spaces quoted, tabs or CSV); a task'
        " without a garment may leave it out and takes every photo",
    )
    add(
        "--persons",
        required=True,
        type=parse_any_path,
        metavar="DIR",
        help="folder of the people's photos; poses and keypoints are taken from beside it",
    )
    add("--garments", type=parse_any_path, metavar="DIR", help="folder of the garments' photos")
    add(
        "--out",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="folder for PERSON__GARMENT.png, pairs.json and failed_pairs.txt, shared by all hosts",
    )
    add("--task", default="try_on", metavar="TASK", help="try_on, try_off or another of the model")
    add(
        "--smplx-model",
        type=parse_any_path_text,
        metavar="FILE",
        help="SMPL-X model (.npz) to render bodies with (default: the free body)",
    )
    for flag, text in (
        ("--null-pose", "let the model choose the poses, whatever lies beside the photos"),
        ("--no-crop", "letter-box the whole photo also where the person is small in it"),
        ("--native-size", "write people at the model's size, not in their photo's frame"),
        ("--overwrite", "delete the pictures of another run in --out and start over"),
    ):
        add(flag, action="store_true", help=text)
    add_sampler_flags(parser)
    add(
        "--dtype",
        default="auto",
        help="compute dtype: float32, bfloat16, or auto (bfloat16 on a GPU or TPU, else float32)",
    )
    add(
        "--batch-size",
        type=int_between(0, BATCH_MAX),
        default=0,
        help="pictures in flight (affects host memory only; 0 = two rounds of all devices)",
    )
    add(
        "--rows-per-device",
        type=int_between(1, MAX_ROWS),
        default=4,
        help="pictures that a device computes at once; fewer take less device memory, and another"
        " number rounds differently",
    )


def run(options: argparse.Namespace) -> None:
    """Sample the pictures that are missing, write pairs.json, and list the failures."""
    if options.dtype not in SAMPLE_DTYPES:
        raise make_unknown_name_error("dtype (--dtype)", options.dtype, SAMPLE_DTYPES)
    people = require_any_dir(options.persons, "photos of people", "--persons")
    if options.garments:
        require_any_dir(options.garments, "photos of garments", "--garments")
    if options.pairs:
        require_any_file(options.pairs, "list of pairs", "--pairs")
    require_disjoint(options.out, {"--persons": people, "--garments": options.garments})
    out = require_any_writable_dir(options.out, "--out")

    with join_and_lock(options, out):
        sample_list(options, out)


def sample_list(options: argparse.Namespace, out: AnyPath) -> None:
    """Sample this process's share of the list; raise an OmfaError at the end for failures."""
    import jax

    from omfa_jax import __version__
    from omfa_jax.model_loading import load_model, read_settings
    from omfa_jax.parallel.distributed import run_on_all_processes, run_on_main_process
    from omfa_jax.sampling.grouped_sampling import get_busy_devices, get_process_share
    from omfa_jax.sampling.pairs_folder import PairsFolder
    from omfa_jax.sampling.pairs_sampling import sample_pairs
    from omfa_jax.sampling.sampler import Sampler, choose_dtype
    from omfa_jax.weights.weights_digest import compute_weights_digest

    settings = make_sampler_settings(options)
    described = read_settings(options.checkpoint)
    # the list and the folders before the weights, which take minutes for SDXL
    row = find_sampled_row(described.tasks, options)
    inputs, pictures = read_inputs(options, row)
    inputs.require_pose_style(described, [picture.person for picture in pictures])
    model = load_model(options.checkpoint, ema=not options.no_ema)
    facts = {
        "omfa_jax": __version__,
        "weights": compute_weights_digest(model),
        "task": row.name,
        "seed": options.seed,
        "sampler": dataclasses.asdict(settings),
        "dtype": choose_dtype(options.dtype, jax.default_backend()),
        "rows_per_device": options.rows_per_device,
        "null_pose": options.null_pose,
        "crop": not options.no_crop,
        "native_size": options.native_size,
        "smplx_model": options.smplx_model,
        "persons": str(options.persons.resolve()),
        "garments": str(options.garments.resolve()) if inputs.garments else None,
    }
    sources = {"checkpoint": options.checkpoint, "pairs": str(options.pairs or "")}
    folder = PairsFolder(out, pictures, row.noised, sources)
    run_on_main_process(lambda: folder.claim(facts, overwrite=options.overwrite))
    rows, process = options.rows_per_device, jax.process_index()
    missing = folder.list_missing()
    if len(missing) < len(pictures):
        log.info("%s: %d of %d pictures are to be made", out, len(missing), len(pictures))
    share = {*get_process_share(len(pictures), process, jax.process_count(), rows)}
    places = [place for place in missing if place in share]
    folder.open_ledger(process)

    def sample() -> None:
        if not places:
            return
        sampler = Sampler(
            model, settings, dtype=options.dtype, devices=get_busy_devices(len(missing), rows)
        )
        in_round = rows * sampler.devices
        if 0 < options.batch_size < in_round:
            log.info("--batch-size %d: %d are in flight at least", options.batch_size, in_round)
        sample_pairs(
            sampler,
            folder,
            inputs,
            places,
            seed=options.seed,
            rows=rows,
            batch_size=options.batch_size,
            native_size=options.native_size,
        )

    def sample_and_close() -> None:
        try:
            sample()
        finally:
            folder.close_ledger()

    run_on_all_processes(sample_and_close)
    run_on_main_process(lambda: report(folder, facts))


def report(folder: "PairsFolder", facts: dict[str, Any]) -> None:
    """Write pairs.json and the list of failures; raise an OmfaError if there are any."""
    from omfa_jax.sampling.pairs_folder import FAILED_FILE, RUN_FILE

    failed = folder.close(facts)
    log.info("wrote %s", folder.out / RUN_FILE)
    if not failed:
        return
    for line in failed[:FAILURES_SHOWN]:
        log.warning("failed: %s: %s", line["name"], line["why"])
    if len(failed) > FAILURES_SHOWN:
        log.warning("... and %d more", len(failed) - FAILURES_SHOWN)
    raise OmfaError(
        f"{len(failed)} of {len(folder.pictures)} pictures failed; {folder.out / FAILED_FILE} says"
        " why. The others are finished, and the same command tries these again"
    )


def find_sampled_row(tasks: Sequence[Task], options: argparse.Namespace) -> Task:
    """Return the row of the task table that --task names; check the flags that it needs."""
    row = next((task for task in tasks if task.name == options.task), None)
    if row is None:
        if options.task in ("transfer", "turntable"):
            raise OmfaError(
                f"--task {options.task} is for one person (omfa sample without --pairs); a list"
                f" samples {', '.join(task.name for task in tasks)}"
            )
        raise make_unknown_name_error("task (--task)", options.task, {task.name for task in tasks})
    if "garment" not in row.noised:
        for flag in ("pairs", "garments"):
            if getattr(options, flag) is None:
                raise OmfaError(f"--task {row.name} needs --{flag}, for the garments to put on")
    elif options.garments:
        log.warning("--garments is not used: task %s generates the garment", row.name)
    return row


def read_inputs(options: argparse.Namespace, row: Task) -> tuple["PairInputs", list["PairPicture"]]:
    """Return where the photos are, and the pictures to make of them."""
    from omfa_jax.data.builders.raw_files import Pair, read_pair_list
    from omfa_jax.sampling.pair_names import drop_garments, name_pictures
    from omfa_jax.sampling.pairs_sampling import PairInputs, PhotoFolder

    people = PhotoFolder(options.persons, "--persons")
    needs_garment = "garment" not in row.noised
    garments = PhotoFolder(options.garments, "--garments") if needs_garment else None
    if options.pairs:
        pairs = read_pair_list(options.pairs, "--pairs")
        people.require_some([pair.person for pair in pairs], options.pairs)
        if garments is not None:
            garments.require_some([pair.garment for pair in pairs], options.pairs)
        else:
            pairs = drop_garments(pairs)
    else:
        pairs = [Pair(path.name, "") for path in people.by_stem.values()]
    found = PairInputs(
        row,
        people,
        garments,
        smplx_model=options.smplx_model,
        crop=not options.no_crop,
        null_pose=options.null_pose,
    )
    return found, name_pictures(pairs)
