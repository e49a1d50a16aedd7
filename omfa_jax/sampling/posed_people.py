"""What a given pose is: a body, a pose map, the name of a library pose, or another photo.

The last two are put on the body of the person's own photo, which keeps its shape and camera.
"""

import logging
import os
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.pose_library import load_pose_library, place_pose
from omfa_jax.body.pose_map_style import read_map_style
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.target_poses import make_library_targets
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.images import read_rgb
from omfa_jax.core.paths import to_path
from omfa_jax.sampling.image_like import read_image_like
from omfa_jax.sampling.photo_files import PersonFiles, find_files_beside, read_photo_keypoints
from omfa_jax.sampling.photo_people import find_photo_person, fit_file_body, fit_photo_body
from omfa_jax.sampling.pose_sources import (
    PosedBodies,
    PoseSource,
    get_body_model,
    read_pose,
)

log = logging.getLogger(__name__)

PoseKind = Literal["body", "map", "name", "photo"]
# the rotations of a pose, beside the direction in which the body looks
ROTATIONS = ("body_pose", "left_hand_pose", "right_hand_pose")
# levels of a map's background, and its share of the upper edge and of the sides
MAP_BACKGROUND, GREY_BACKGROUND, GREY_SPREAD = 24, (100, 156), 4
MIN_EDGE_SHARE = 0.9


def find_pose_kind(pose: str | os.PathLike, flag: str = "--pose") -> PoseKind:
    """Return what a given pose is, and log it where that is a guess.

    A word that is no file is a name. An image is a map if pose_maps.json lies beside it, or if its
    background is that of pose maps; else it is taken for a photo. Raises OmfaError for a name that
    the library lacks, and an image that cannot be read.
    """
    path, text = to_path(pose), os.fspath(pose)
    if path.suffix == ".npz":
        return "body"
    if not path.suffix and path.name == text and not path.exists():
        library = load_pose_library()
        if text not in library:
            raise make_unknown_name_error(f"pose ({flag}; no file has this name)", text, library)
        return "name"
    if read_map_style(path) is not None:
        return "map"
    if has_map_background(read_rgb(path, f"pose ({flag})")):
        log.info("%s %s: taken for a pose map (it has the even background of one)", flag, path)
        return "map"
    log.info("%s %s: taken for a photo, whose pose is used (no pose map's background)", flag, path)
    return "photo"


def has_map_background(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Return whether an image has the even black or grey background of pose maps.

    At least 90% of the upper edge and the sides are within 24 levels of one colour, which is black
    or a neutral grey of 100 to 156, as other tools' maps have it.
    """
    # nobody stands at the upper half of the edge
    half = (len(image) + 1) // 2
    edge = np.concatenate([image[0], image[:half, 0], image[:half, -1]]).astype(np.int16)
    colour = np.median(edge, axis=0)
    even = (np.abs(edge - colour) <= MAP_BACKGROUND).all(axis=1).mean() >= MIN_EDGE_SHARE
    low, high = GREY_BACKGROUND
    # the walls of studios are grey too, but no two of their pixels are the same
    is_grey = (
        np.ptp(colour) <= GREY_SPREAD
        and low <= colour.min() <= colour.max() <= high
        and (np.abs(edge - colour) <= 1).all(axis=1).mean() >= MIN_EDGE_SHARE
    )
    return bool(even and (colour.max() <= MAP_BACKGROUND or is_grey))


def put_named_pose(name: str, own: PosedBodies) -> PosedBodies:
    """Return the person in a pose of the library, which faces their camera."""
    posed = place_pose(load_pose_library()[name], own.bodies[0], own.camera)
    return replace(own, bodies=[posed])


def make_named_pose(name: str, size_px: tuple[int, int], smplx_model: str | None) -> PosedBodies:
    """Return the mean body in a pose of the library, in a studio of (height, width) px."""
    log.warning("no photo of the person: pose %s is that of the mean body", name)
    bodies, camera = make_library_targets(
        [name], library=None, body=None, smplx_model=smplx_model, size_px=(size_px[1], size_px[0])
    )
    return PosedBodies([bodies[name]], camera, get_body_model(smplx_model))


def put_pose(other: PosedBodies, own: PosedBodies) -> PosedBodies:
    """Return the person in the pose of another, seen from the same side as the other."""
    posed = copy_pose(other.bodies[0], other.camera, own.bodies[0], own.camera)
    return replace(own, bodies=[posed])


def copy_pose(
    other: BodyParams, other_camera: Camera, own: BodyParams, own_camera: Camera
) -> BodyParams:
    """Return `own` in the pose of `other`, turned alike to the camera; shape and place stay."""
    (facing,) = axis_angle_to_matrix(other.global_orient[None].astype(np.float64))
    turned = own_camera.rotation.T @ other_camera.rotation @ facing
    rotations = {name: getattr(other, name) for name in ROTATIONS}
    return own.replace(global_orient=matrix_to_axis_angle(turned), **rotations)


def pose_own_body(
    size_px: tuple[int, int],
    files: PersonFiles,
    named: bool,
    own: PoseSource | None,
    smplx_model: str | None,
) -> PosedBodies:
    """Return the person's own body in the pose of the library or photo that `files` names.

    `size_px` (height, width) is that of the image without a photo of the person. Raises OmfaError
    if the person has no body, and if nobody is found in the photo of the pose.
    """
    assert files.pose is not None, "the caller has found its kind"
    if own is not None and not isinstance(own, PosedBodies):
        raise OmfaError(f"{files.name}: a pose map cannot be posed; give a body (.npz)")
    if named:
        name = os.fspath(files.pose)
        if files.photo is None:
            return make_named_pose(name, size_px, smplx_model)
        if own is not None:
            return put_named_pose(name, own)
    else:
        other = read_person_body(files, smplx_model)
        if files.photo is None:
            log.warning("no photo of the person: body and camera are those of %s", files.pose)
            return other
        if own is not None:
            return put_pose(other, own)
    raise OmfaError(
        f"{files.name}: no body of the person to put {files.prefix}pose {files.pose} on: give"
        f" keypoints that show them from head to hips, or {files.prefix}pose FILE.npz"
    )


def read_person_body(files: PersonFiles, smplx_model: str | None) -> PosedBodies:
    """Return the body of the photo that is the pose of `files`; OmfaError if none is found."""
    assert files.pose is not None, "the caller has found its kind"
    name, flag = os.fspath(files.pose), f"{files.prefix}pose"
    photo = read_image_like(name, f"photo of the pose ({flag})")
    other = find_files_beside(PersonFiles(name), "", needs_body=True)
    if other.pose is not None:
        body = read_pose(other.pose, "", smplx_model, flag)
        assert isinstance(body, PosedBodies), "a body was asked for"
        return body
    found = read_photo_keypoints(other, *photo.shape[:2])
    if found is not None:
        body = fit_file_body(other, found, photo, smplx_model)
        if body is not None:
            return body
    taken = f"give a pose map with a black background or pose_maps.json beside it as {flag}"
    person = find_photo_person(photo, name, needed=taken)
    assert person is not None, "else an error was raised"
    return fit_photo_body(person, smplx_model, name, f"another {flag}")
