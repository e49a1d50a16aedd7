"""`omfa data synthesize | poses | build | check | latents | show`."""

import argparse
import logging
import os
from pathlib import Path

from tqdm import tqdm

from omfa_jax.cli.records import add_writing, writing
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import require_dir

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `omfa data`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    cores = os.cpu_count() or 1
    make = command("synthesize", "write a synthetic data set in VITON-HD's folder layout")
    make.add_argument("--out", required=True, metavar="DIR")
    make.add_argument("--train", type=int, default=1000, help="people in the training split")
    make.add_argument("--val", type=int, default=50)
    make.add_argument("--test", type=int, default=100)
    make.add_argument("--height", type=int, default=128, help="of a photo, in pixels")
    make.add_argument("--width", type=int, default=96)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--processes", type=int, default=cores)

    poses = command("poses", "render SMPL-X parameters (SPLIT/smplx) to pose maps (SPLIT/pose)")
    poses.add_argument("--raw", required=True, metavar="DIR", help="raw data set folder")
    poses.add_argument("--smplx-model", metavar="FILE", help="SMPL-X .npz; default: the free body")
    poses.add_argument("--style", default="normals", help="normals, positions, parts or shaded")
    poses.add_argument("--backend", default="auto", help="auto, pyrender or zbuffer")
    poses.add_argument("--processes", type=int, default=cores)

    build = command("build", "turn a raw folder into records")
    build.add_argument("--raw", required=True, metavar="DIR", help="VITON-HD's layout")
    build.add_argument("--out", required=True, metavar="DIR")
    build.add_argument("--dataset", default="viton_hd")
    build.add_argument("--processes", type=int, default=1)
    build.add_argument("--overwrite", action="store_true", help="replace records at --out")
    add_writing(build)

    latents = command("latents", "encode records with a model's VAE, once, for training")
    latents.add_argument("--records", required=True, metavar="DIR")
    latents.add_argument("--model", required=True, metavar="DIR", help="diffusers folder with vae/")
    latents.add_argument("--config", required=True, metavar="FILE", help="for the slot sizes")
    latents.add_argument("--out", required=True, metavar="DIR")
    latents.add_argument("--batch-size", type=int, default=32)
    latents.add_argument("--overwrite", action="store_true")
    add_writing(latents)

    check = command("check", "read every record and report faults")
    check.add_argument("--records", required=True, metavar="DIR")

    show = command("show", "write a contact sheet of records")
    show.add_argument("--records", required=True, metavar="DIR")
    show.add_argument("--out", required=True, metavar="FILE.png")
    show.add_argument("--split", default="train")
    show.add_argument("--count", type=int, default=8)


def run(options: argparse.Namespace) -> None:
    """Run one sub-command."""
    action = {
        "synthesize": synthesize,
        "poses": poses,
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
    with tqdm(total=sum(counts.values()), unit="person", desc="synthesize") as bar:

        def advance(done: int, total: int) -> None:
            bar.update(1)

        report = write_world(
            options.out,
            seed=options.seed,
            counts=counts,
            height_px=options.height,
            width_px=options.width,
            processes=options.processes,
            progress=advance,
        )
    log.info("%s: %d people written, %d kept", report.root, report.written, report.kept)


def poses(options: argparse.Namespace) -> None:
    """Render every parameter file of every split, the truth's too."""
    from omfa_jax.body.pose_maps import render_folder

    raw = require_dir(options.raw, "raw data set", "--raw")
    folders = sorted(path for path in raw.glob("**/smplx") if path.is_dir())
    if not folders:
        raise OmfaError(f"no smplx/ folder under {raw}; expected {raw}/SPLIT/smplx/NAME.npz")
    failed = 0
    for folder in folders:
        report = render_folder(
            folder,
            folder.parent / "pose",
            model_path=options.smplx_model,
            style=options.style,
            backend=options.backend,
            processes=options.processes,
        )
        log.info("%s: %s", folder.relative_to(raw), report)
        failed += len(report.failed)
    if failed:
        raise OmfaError(f"{failed} pose maps could not be rendered; they are listed above")


def build(options: argparse.Namespace) -> None:
    """Build records and say what was found and skipped."""
    from omfa_jax.data.build import build as build_records

    build_records(
        options.raw,
        options.out,
        dataset=options.dataset,
        processes=options.processes,
        overwrite=options.overwrite,
        **writing(options),
    )


def latents(options: argparse.Namespace) -> None:
    """Encode the records of every split."""
    from omfa_jax.cli.config import load_config
    from omfa_jax.cli.records import encode_records

    encode_records(
        load_config(options.config, options.overrides),
        options.records,
        options.model,
        options.out,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        **writing(options),
    )


def check(options: argparse.Namespace) -> None:
    """Report the faults of a records folder; any fault is an error."""
    from omfa_jax.data.check import check_records, summary

    report = check_records(options.records)
    log.info(summary(report))
    if report.faults:
        raise OmfaError(f"{options.records}: {len(report.faults)} faults, listed above")


def show(options: argparse.Namespace) -> None:
    """Write the contact sheet."""
    from omfa_jax.data.show import contact_sheet

    if options.count < 1:
        raise OmfaError(f"--count: expected 1 or more, got {options.count}")

    contact_sheet(options.records, Path(options.out), split=options.split, count=options.count)
    log.info("wrote %s", options.out)
