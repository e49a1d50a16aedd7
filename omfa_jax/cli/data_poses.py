"""`omfa data poses`: render pose maps of a raw data set's bodies, or of target poses."""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from omfa_jax.cli.flags import WORKERS_TYPE, int_between, parse_path_text
from omfa_jax.core.atomic_files import require_dir, require_writable_dir
from omfa_jax.core.errors import OmfaError, unknown_name

if TYPE_CHECKING:
    from omfa_jax.body.body_params import BodyParams
    from omfa_jax.body.camera import Camera

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa data poses`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--raw",
        type=parse_path_text,
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
        type=parse_path_text,
        metavar="FILE.json",
        help="pose library (default: the built-in one)",
    )
    parser.add_argument(
        "--body",
        type=parse_path_text,
        metavar="FILE.npz",
        help="body shape and camera of the target poses (default: the mean body)",
    )
    parser.add_argument(
        "--size",
        default="768x1024",
        metavar="WxH",
        help="image size in pixels if --body has no camera",
    )
    parser.add_argument(
        "--out",
        type=parse_path_text,
        metavar="DIR",
        help="folder to write target poses and turntables to",
    )
    parser.add_argument(
        "--smplx-model",
        type=parse_path_text,
        metavar="FILE",
        help="SMPL-X .npz (default: the free body)",
    )
    parser.add_argument(
        "--style",
        default="normals",
        help="normals, positions, parts or shaded",
    )
    parser.add_argument("--backend", default="auto", help="auto, pyrender or zbuffer")
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

    # before anything is written, so that a wrong flag leaves no files
    check_render_settings(options.style, options.backend, options.processes)
    if options.raw:
        raw = require_dir(options.raw, "raw data set", "--raw")
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
        bodies, camera = render_targets(options)
        out = Path(options.out)
        folder = require_writable_dir(out / "smplx", "--out")
        for name, body in bodies.items():
            save_body(folder / f"{name}.npz", body, camera)
        render_folders([(out / "smplx", out / "pose")], options)


def render_folders(folders: list[tuple[Path, Path]], options: argparse.Namespace) -> None:
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
        )
        log.info("%s: %s", maps, report)
        failed += len(report.failed)
    if failed:
        raise OmfaError(f"{failed} pose maps could not be rendered, listed above")


def render_targets(options: argparse.Namespace) -> "tuple[dict[str, BodyParams], Camera]":
    """Return the body of every requested pose or view, and their common camera."""
    from omfa_jax.body.body_file import load_body
    from omfa_jax.body.body_model import load_body_model
    from omfa_jax.body.body_params import make_neutral_params, make_params_from_pose
    from omfa_jax.body.pose_library import (
        load_pose_library,
        make_studio_camera,
        parse_pose,
        place_pose,
    )
    from omfa_jax.body.turntable import make_turntable

    person, camera = load_body(options.body) if options.body else (make_neutral_params(), None)
    if options.turntable is not None:
        standing = person if camera else make_params_from_pose(parse_pose({}))
        # up in the photo: a camera's y axis points down, and its rotation's rows are its axes
        up = (0.0, 1.0, 0.0) if camera is None else tuple(-camera.rotation[1])
        views = make_turntable(standing, options.turntable, up=up)
        bodies = {f"view_{index:03d}": view for index, view in enumerate(views)}
    else:
        library = load_pose_library(options.library)
        names = list(library) if options.poses == "all" else options.poses.split(",")
        for name in names:
            if name not in library:
                raise unknown_name("pose (--poses; --list prints them)", name, library)
        # place_pose uses the direction of the camera only, so the size of the image is arbitrary
        front = camera or make_studio_camera(load_body_model(options.smplx_model), [person], 8, 8)
        bodies = {name: place_pose(library[name], person, front) for name in names}
    if camera is None:
        # framed with a standing body, so that crouching ones alone are not drawn larger
        shown = [*bodies.values(), make_params_from_pose(parse_pose({}))]
        camera = make_studio_camera(
            load_body_model(options.smplx_model), shown, *_size(options.size)
        )
    return bodies, camera


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.lower().split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise OmfaError(f"--size: expected WIDTHxHEIGHT in pixels, got {text!r}") from None
    return width, height
