"""`omfa data synthesize | keypoints | bodies | fit | poses | duplicates | build | check | ...`."""

import argparse
import contextlib
import logging
import os

from tqdm import tqdm

from omfa_jax.cli import bodies, data_duplicates, data_keypoints, data_poses, datasets, fit
from omfa_jax.cli.config_flag import add_config_flags
from omfa_jax.cli.flags import (
    BATCH_TYPE,
    SEED_TYPE,
    SIDE_PX_TYPE,
    WORKERS_TYPE,
    int_between,
    parse_any_path_text,
)
from omfa_jax.cli.records import add_writing_arguments, get_writing_options
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path

WORKER_HELP = "number of worker processes"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `omfa data`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        # an abbreviation in someone's script would become ambiguous with the next new flag
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    cores = os.cpu_count() or 1
    make = command("synthesize", "write a synthetic data set in the layout of a real one")
    make.add_argument(
        "--out", required=True, type=parse_any_path_text, metavar="DIR", help="folder to write"
    )
    make.add_argument(
        "--dataset",
        default="viton_hd",
        metavar="NAME",
        help=f"data set whose layout to write: {datasets.DATASETS}",
    )
    for split in ("train", "val", "test"):
        text = f"number of people in the {split} split"
        make.add_argument(f"--{split}", type=int_between(), default=0, metavar="N", help=text)
    make.add_argument(
        # an eighth of VITON-HD's 1024x768: small enough to train on without an accelerator
        "--height",
        type=SIDE_PX_TYPE,
        default=128,
        help="photo height in pixels",
    )
    make.add_argument(
        "--width",
        type=SIDE_PX_TYPE,
        default=96,
        help="photo width in pixels",
    )
    make.add_argument("--seed", type=SEED_TYPE, default=0, help="random seed")
    make.add_argument("--processes", type=WORKERS_TYPE, default=cores, help=WORKER_HELP)

    data_keypoints.add_arguments(command("keypoints", data_keypoints.HELP))
    bodies.add_arguments(command("bodies", bodies.HELP))
    fit.add_arguments(command("fit", fit.HELP))

    text = "render pose maps of a raw data set's SMPL-X parameters, or of target poses"
    data_poses.add_arguments(command("poses", text))

    build = command("build", "convert a raw data set to records")
    build.add_argument(
        "--raw", required=True, type=parse_any_path_text, metavar="DIR", help="raw data set folder"
    )
    build.add_argument(
        "--out",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="records folder to write, also gs:// and s3://",
    )
    datasets.add_dataset_argument(build)
    datasets.add_arguments(build)
    build.add_argument("--processes", type=WORKERS_TYPE, default=1, help=WORKER_HELP)
    build.add_argument("--overwrite", action="store_true", help="replace the records in --out")
    add_writing_arguments(build)

    data_duplicates.add_arguments(command("duplicates", "find duplicate photos in a raw data set"))

    latents = command("latents", "encode records to VAE latents, so that training does not have to")
    latents.add_argument(
        "--records",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="image records to encode, also of gs:// and s3://",
    )
    latents.add_argument(
        "--model",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="diffusers folder with the VAE (vae/), also of gs:// and s3://",
    )
    add_config_flags(latents, "config file, for the slot sizes")
    latents.add_argument(
        "--out",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="latents folder to write, also gs:// and s3://",
    )
    latents.add_argument("--batch-size", type=BATCH_TYPE, default=32, help="images per batch")
    latents.add_argument("--overwrite", action="store_true", help="replace the latents in --out")
    add_writing_arguments(latents)

    check = command("check", "check a raw data set or records, and report faults by kind")
    where = check.add_mutually_exclusive_group(required=True)
    where.add_argument("--records", type=parse_any_path_text, metavar="DIR", help="records folder")
    where.add_argument("--raw", type=parse_any_path_text, metavar="DIR", help="raw data set folder")
    datasets.add_dataset_argument(check, "with --raw: ")
    datasets.add_arguments(check)
    check.add_argument(
        "--processes", type=WORKERS_TYPE, default=1, help=f"with --raw: {WORKER_HELP}"
    )

    show = command("show", "draw a contact sheet of records, or of a raw data set's keypoints")
    where = show.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--records", type=parse_any_path_text, metavar="DIR", help="image records to show"
    )
    where.add_argument(
        "--raw",
        type=parse_any_path_text,
        metavar="DIR",
        help="raw data set whose photos to show with their keypoints",
    )
    datasets.add_dataset_argument(show, "with --raw: ")
    show.add_argument(
        "--out", required=True, type=parse_any_path_text, metavar="FILE.png", help="image to write"
    )
    show.add_argument("--split", help="split to show (default: train; with --raw: all)")
    show.add_argument(
        "--count",
        type=int_between(1, 10000),
        default=8,
        help="number of records or photos",
    )


def run(options: argparse.Namespace) -> None:
    """Run one sub-command."""
    action = {
        "synthesize": synthesize,
        "keypoints": data_keypoints.run,
        "bodies": bodies.run,
        "fit": fit.run,
        "poses": data_poses.run,
        "duplicates": data_duplicates.run,
        "build": build,
        "check": check,
        "latents": encode_latents,
        "show": show,
    }
    action[options.action](options)


def synthesize(options: argparse.Namespace) -> None:
    """Write a synthetic data set."""
    from omfa_jax.synthetic.world_writer import write_world

    counts = {"train": options.train, "val": options.val, "test": options.test}
    with contextlib.ExitStack() as stack:
        bars: list[tqdm] = []

        def advance(done: int, total: int) -> None:
            # created with the first person, so that an error shows no progress bar
            if not bars:
                bars.append(stack.enter_context(tqdm(None, "synthesize", total, unit="person")))
            bars[0].update(1)

        report = write_world(
            options.out,
            seed=options.seed,
            counts=counts,
            height_px=options.height,
            width_px=options.width,
            processes=options.processes,
            progress=advance,
            layout=options.dataset,
        )
    log.info("%s: %d people written, %d kept", report.root, report.written, report.kept)


def build(options: argparse.Namespace) -> None:
    """Build records, and log what was found and skipped."""
    from omfa_jax.data.builders.build_records import build_records

    build_records(
        options.raw,
        options.out,
        dataset=options.dataset,
        processes=options.processes,
        overwrite=options.overwrite,
        item_options=datasets.get_item_options(options),
        **get_writing_options(options),
    )


def encode_latents(options: argparse.Namespace) -> None:
    """Encode the records of all splits."""
    from omfa_jax.cli.config_lib import load_config, make_weights_source
    from omfa_jax.sampling.encode_records import encode_records

    config = load_config(options.config, options.overrides)
    encode_records(
        make_weights_source(config).diffusion_for,
        options.records,
        options.model,
        options.out,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        **get_writing_options(options),
    )


def check(options: argparse.Namespace) -> None:
    """Report the faults of a raw data set or a records folder; OmfaError if there are any."""
    from omfa_jax.data.checks.check_records import check_records, format_check_report

    if options.raw:
        from omfa_jax.data.builders.check_raw import check_raw

        chosen = {"dataset": options.dataset, "processes": options.processes}
        report = check_raw(options.raw, **chosen, **datasets.get_item_options(options))
    else:
        report = check_records(options.records)
    # also when there are faults: the error below is one line and does not list them
    log.info(format_check_report(report))
    if report.faults:
        where = options.raw or options.records
        raise OmfaError(f"{where}: found {len(report.faults)} faults, listed above")


def show(options: argparse.Namespace) -> None:
    """Draw the contact sheet."""
    out = to_path(options.out)
    if options.raw:
        from omfa_jax.data.builders.keypoint_photos import write_keypoint_sheet

        chosen = {"dataset": options.dataset, "split": options.split, "count": options.count}
        drawn = write_keypoint_sheet(options.raw, out, **chosen)
    else:
        from omfa_jax.data.records.contact_sheet import write_contact_sheet

        if options.dataset is not None:
            raise OmfaError("--dataset is for --raw; remove it, or give --raw instead of --records")
        write_contact_sheet(
            options.records, out, split=options.split or "train", count=options.count
        )
        drawn = ""
    log.info("wrote %s%s", out, drawn)
