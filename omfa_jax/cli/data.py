"""`omfa data synthesize | bodies | fit | poses | duplicates | build | check | latents | show`."""

import argparse
import contextlib
import logging
import os
from pathlib import Path

from tqdm import tqdm

from omfa_jax.cli import bodies, datasets, duplicates, fit, poses
from omfa_jax.cli.flags import BATCH, SEED, SIDE_PX, WORKERS, path_text, whole
from omfa_jax.cli.records import add_writing_arguments, writing_options
from omfa_jax.core.errors import OmfaError

DATASETS = "viton_hd, deepfashion_multimodal or dresscode"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `omfa data`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    cores = os.cpu_count() or 1
    make = command("synthesize", "write a synthetic data set in a real one's folder layout")
    make.add_argument("--out", required=True, type=path_text, metavar="DIR")
    make.add_argument("--layout", default="viton_hd", help=DATASETS)
    make.add_argument("--train", type=whole(), default=1000, help="people in the training split")
    make.add_argument("--val", type=whole(), default=50)
    make.add_argument("--test", type=whole(), default=100)
    make.add_argument("--height", type=SIDE_PX, default=128, help="of a photo, in pixels")
    make.add_argument("--width", type=SIDE_PX, default=96)
    make.add_argument("--seed", type=SEED, default=0)
    make.add_argument("--processes", type=WORKERS, default=cores)

    bodies.add_arguments(command("bodies", bodies.HELP))
    fit.add_arguments(command("fit", fit.HELP))

    text = "pose maps of a raw data set's SMPL-X parameters, or of named target poses"
    poses.add_arguments(command("poses", text))

    build = command("build", "turn a raw folder into records")
    build.add_argument(
        "--raw", required=True, type=path_text, metavar="DIR", help="raw data set folder"
    )
    build.add_argument("--out", required=True, type=path_text, metavar="DIR")
    build.add_argument("--dataset", default="viton_hd", help=DATASETS)
    datasets.add_arguments(build)
    build.add_argument("--processes", type=WORKERS, default=1)
    build.add_argument("--overwrite", action="store_true", help="replace records at --out")
    add_writing_arguments(build)

    duplicates.add_arguments(command("duplicates", "find photos that are in a raw folder twice"))

    latents = command("latents", "encode records with a model's VAE, once, for training")
    latents.add_argument("--records", required=True, type=path_text, metavar="DIR")
    latents.add_argument(
        "--model", required=True, type=path_text, metavar="DIR", help="diffusers folder with vae/"
    )
    latents.add_argument(
        "--config", required=True, type=path_text, metavar="FILE", help="for the slot sizes"
    )
    latents.add_argument("--out", required=True, type=path_text, metavar="DIR")
    latents.add_argument("--batch-size", type=BATCH, default=32)
    latents.add_argument("--overwrite", action="store_true")
    add_writing_arguments(latents)

    check = command("check", "read a raw data set or records, and report faults by kind")
    where = check.add_mutually_exclusive_group(required=True)
    where.add_argument("--records", type=path_text, metavar="DIR")
    where.add_argument("--raw", type=path_text, metavar="DIR", help="raw data set folder")
    check.add_argument("--dataset", help=f"with --raw: {DATASETS}; default: by its layout")
    datasets.add_arguments(check)
    check.add_argument("--processes", type=WORKERS, default=1, help="with --raw")

    show = command("show", "write a contact sheet of records")
    show.add_argument("--records", required=True, type=path_text, metavar="DIR")
    show.add_argument("--out", required=True, type=path_text, metavar="FILE.png")
    show.add_argument("--split", default="train")
    show.add_argument("--count", type=whole(1, 10000), default=8)


def run(options: argparse.Namespace) -> None:
    """Run one sub-command."""
    action = {
        "synthesize": synthesize,
        "bodies": bodies.run,
        "fit": fit.run,
        "poses": poses.run,
        "duplicates": duplicates.run,
        "build": build,
        "check": check,
        "latents": latents,
        "show": show,
    }
    action[options.action](options)


def synthesize(options: argparse.Namespace) -> None:
    """Write the synthetic world."""
    from omfa_jax.data.world.writer import write_world

    counts = {"train": options.train, "val": options.val, "test": options.test}
    with contextlib.ExitStack() as shown:
        bars: list[tqdm] = []

        def advance(done: int, total: int) -> None:
            # not before the first: what is refused has no bar
            if not bars:
                bars.append(shown.enter_context(tqdm(None, "synthesize", total, unit="person")))
            bars[0].update(1)

        report = write_world(
            options.out,
            seed=options.seed,
            counts=counts,
            height_px=options.height,
            width_px=options.width,
            processes=options.processes,
            progress=advance,
            layout=options.layout,
        )
    log.info("%s: %d people written, %d kept", report.root, report.written, report.kept)


def build(options: argparse.Namespace) -> None:
    """Build records and say what was found and skipped."""
    from omfa_jax.data.build import build as build_records

    build_records(
        options.raw,
        options.out,
        dataset=options.dataset,
        processes=options.processes,
        overwrite=options.overwrite,
        item_options=datasets.item_options(options),
        **writing_options(options),
    )


def latents(options: argparse.Namespace) -> None:
    """Encode the records of every split."""
    from omfa_jax.cli.config import load_config, weights_source
    from omfa_jax.sampling.encode_records import encode_records

    config = load_config(options.config, options.overrides)
    encode_records(
        weights_source(config).diffusion_for,
        options.records,
        options.model,
        options.out,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        **writing_options(options),
    )


def check(options: argparse.Namespace) -> None:
    """Report the faults of a raw data set or a records folder; any fault is an error."""
    from omfa_jax.data.check import check_records, summary

    if options.raw:
        from omfa_jax.data.check_raw import check_raw

        chosen = {"dataset": options.dataset, "processes": options.processes}
        report = check_raw(options.raw, **chosen, **datasets.item_options(options))
    else:
        report = check_records(options.records)
    log.info(summary(report))
    if report.faults:
        where = options.raw or options.records
        raise OmfaError(f"{where}: {len(report.faults)} faults, listed above")


def show(options: argparse.Namespace) -> None:
    """Write the contact sheet."""
    from omfa_jax.data.show import contact_sheet

    contact_sheet(options.records, Path(options.out), split=options.split, count=options.count)
    log.info("wrote %s", options.out)
