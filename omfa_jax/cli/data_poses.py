"""`omfa data poses`: render pose maps of a raw data set's bodies, or of target poses."""

import argparse
import logging
import os

from omfa_jax.cli.flags import WORKERS_TYPE, int_between, parse_any_path_text
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.path_checks import require_any_dir, require_any_writable_dir
from omfa_jax.core.paths import AnyPath, to_path

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa data poses`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--raw",
        type=parse_any_path_text,
        metavar="DIR",
        help="raw data set: render every smplx/ folder",
    )
    what.add_argument("--poses", metavar="NAME,...|all", help="render target poses of the library")
    what.add_argument(
        "--turntable", type=int_between(1, 10000), metavar="N", help="render N views around a body"
    )
    what.add_argument("--list", action="store_true", help="print the library's pose names")
    parser.add_argument(
        "--library",
        type=parse_any_path_text,
        metavar="FILE.json",
        help="pose library (default: the built-in one)",
    )
    parser.add_argument(
        "--body",
        type=parse_any_path_text,
        metavar="FILE.npz",
        help="body shape and camera of the target poses (default: the mean body)",
    )
    parser.add_argument(
        "--size",
        default="768x1024",
        metavar="WxH",
        help="image size in pixels without --body",
    )
    parser.add_argument(
        "--out",
        type=parse_any_path_text,
        metavar="DIR",
        help="folder to write target poses and turntables to",
    )
    parser.add_argument(
        "--smplx-model",
        type=parse_any_path_text,
        metavar="FILE",
        help="SMPL-X .npz (default: the free body)",
    )
    parser.add_argument(
        "--style",
        default="normals",
        help="pose map style: normals, positions, parts or shaded",
    )
    parser.add_argument("--backend", default="auto", help="renderer: auto, pyrender or zbuffer")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="render all maps again, also those of another style or body model",
    )
    parser.add_argument(
        "--processes",
        type=WORKERS_TYPE,
        default=os.cpu_count() or 1,
        help="number of worker processes",
    )


def run(options: argparse.Namespace) -> None:
    """Render the pose maps, or print the library's pose names."""
    if options.list:
        from omfa_jax.body.pose_library import load_pose_library

        print("\n".join(load_pose_library(options.library)))
        return
    from omfa_jax.body.body_file import save_body
    from omfa_jax.body.pose_maps import check_render_settings, find_body_files, find_folders
    from omfa_jax.body.target_poses import make_library_targets, make_turntable_targets

    # before anything is written, so that a wrong flag leaves no files
    check_render_settings(options.style, options.backend, options.processes)
    if options.raw:
        raw = require_any_dir(options.raw, "raw data set", "--raw")
        folders = find_folders("smplx", raw)
        if not folders:
            raise OmfaError(f"no smplx/ folder under {raw}; expected {raw}/SPLIT/smplx/NAME.npz")
        for folder in folders:
            # raises for an empty folder now, not after hours of rendering the others
            find_body_files(folder)
        render_folders([(folder, folder.parent / "pose") for folder in folders], options)
    else:
        if not options.out:
            raise OmfaError("--out: expected a folder for the bodies and pose maps")
        given = {
            "body": options.body,
            "smplx_model": options.smplx_model,
            "size_px": parse_size(options.size),
        }
        if options.turntable is not None:
            bodies, camera = make_turntable_targets(options.turntable, **given)
        else:
            names = None if options.poses == "all" else options.poses.split(",")
            bodies, camera = make_library_targets(names, library=options.library, **given)
        out = to_path(options.out)
        folder = require_any_writable_dir(out / "smplx", "--out")
        for name, body in bodies.items():
            save_body(folder / f"{name}.npz", body, camera)
        render_folders([(out / "smplx", out / "pose")], options)


def render_folders(folders: list[tuple[AnyPath, AnyPath]], options: argparse.Namespace) -> None:
    """Render folders of bodies to folders of pose maps; OmfaError at the end on failures."""
    from omfa_jax.body.pose_maps import render_folder

    failed = 0
    for bodies, maps in folders:
        # folders after one with failures are rendered too: the error comes at the end
        report = render_folder(
            bodies,
            maps,
            model_path=options.smplx_model,
            style=options.style,
            backend=options.backend,
            processes=options.processes,
            overwrite=options.overwrite,
        )
        log.info("%s: %s", maps, report)
        failed += len(report.failed)
    if failed:
        raise OmfaError(f"{failed} pose maps could not be rendered, listed above")


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as 768x1024."""
    try:
        width, height = map(int, text.lower().split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise OmfaError(f"--size: expected WIDTHxHEIGHT in pixels, got {text!r}") from None
    return width, height
