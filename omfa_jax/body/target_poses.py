"""The bodies of target poses: poses of the library, or the views of a turntable."""

from collections.abc import Sequence

from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import BodyParams, make_neutral_params, make_params_from_pose
from omfa_jax.body.camera import Camera
from omfa_jax.body.pose_library import (
    load_pose_library,
    make_studio_camera,
    parse_pose,
    place_pose,
)
from omfa_jax.body.turntable import make_turntable
from omfa_jax.core.errors import make_unknown_name_error


def make_library_targets(
    names: Sequence[str] | None,
    *,
    library: str | None,
    body: str | None,
    smplx_model: str | None,
    size_px: tuple[int, int],
) -> tuple[dict[str, BodyParams], Camera]:
    """Return the body of each of the library's poses `names` (None: all), and their camera.

    `body` gives the person's shape and camera; without it the mean body stands in a studio whose
    images are `size_px` (width, height). `library` is a JSON file (None: the built-in one).
    """
    poses = load_pose_library(library)
    names = list(poses) if names is None else names
    for name in names:
        if name not in poses:
            raise make_unknown_name_error("pose (--poses; --list prints them)", name, poses)
    person, camera = load_body(body) if body else (make_neutral_params(), None)
    # 8 x 8 px: poses are turned to face the camera, and only its direction counts for that
    front = camera or make_studio_camera(load_body_model(smplx_model), [person], 8, 8)
    bodies = {name: place_pose(poses[name], person, front) for name in names}
    return bodies, camera or _make_common_camera(bodies, smplx_model, size_px)


def make_turntable_targets(
    views: int, *, body: str | None, smplx_model: str | None, size_px: tuple[int, int]
) -> tuple[dict[str, BodyParams], Camera]:
    """Return `views` bodies turned about the vertical, and their camera, as above."""
    person, camera = load_body(body) if body else (make_neutral_params(), None)
    # the library's own stance: with neutral parameters the arms are stretched out
    standing = person if camera else make_params_from_pose(parse_pose({}))
    # up in the photo: a camera's y axis points down, and its rotation's rows are its axes
    up = (0.0, 1.0, 0.0) if camera is None else tuple(-camera.rotation[1])
    turned = make_turntable(standing, views, up=up)
    bodies = {f"view_{index:03d}": view for index, view in enumerate(turned)}
    return bodies, camera or _make_common_camera(bodies, smplx_model, size_px)


def _make_common_camera(
    bodies: dict[str, BodyParams], smplx_model: str | None, size_px: tuple[int, int]
) -> Camera:
    # framed with a standing body, so that crouching ones alone are not drawn larger
    shown = [*bodies.values(), make_params_from_pose(parse_pose({}))]
    return make_studio_camera(load_body_model(smplx_model), shown, *size_px)
