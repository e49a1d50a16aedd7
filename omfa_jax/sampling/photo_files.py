"""What lies beside a person's photo in a raw data set: body, pose map, keypoints, parse map."""

import logging
import os
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.keypoints.keypoint_reader import (
    KeypointsError,
    NoPersonError,
    PhotoKeypoints,
    read_keypoints,
)
from omfa_jax.body.pose_map_style import require_map_style
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_labels
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.data.builders.face_box import find_face_box
from omfa_jax.data.builders.viton_hd import KEYPOINT_DIRS, PARSE_DIRS
from omfa_jax.data.records.face_crop import crop_face
from omfa_jax.sampling.image_like import ImageLike

log = logging.getLogger(__name__)

WHITE = 255

PathLike = str | os.PathLike


@dataclass(frozen=True)
class PersonFiles:
    """What is given of a person, or lies beside their photo; None is what there is not.

    `person_index` is the person of keypoints with several, None for the largest.
    `keypoints_beside` and `pose_beside` say that these were found and not given,
    `fit_keypoints` that the pose comes from keypoints, and `null_pose` that no pose is wanted.
    `prefix` is that of the flags in messages, such as "--source-".
    """

    photo: ImageLike | None = None
    face: ImageLike | None = None
    pose: PathLike | None = None
    keypoints: PathLike | None = None
    parse: PathLike | None = None
    person_index: int | None = None
    keypoints_beside: bool = False
    pose_beside: bool = False
    fit_keypoints: bool = False
    null_pose: bool = False
    prefix: str = "--"

    @property
    def name(self) -> str:
        """The photo's path, for messages."""
        return os.fspath(self.photo) if isinstance(self.photo, PathLike) else "the photo"


def find_files_beside(
    files: PersonFiles, style: str, *, null_pose: bool = False, needs_body: bool = False
) -> PersonFiles:
    """Return the files, with those beside DIR/image/NAME.jpg where nothing is given.

    A pose is taken from the first of these: what is given, keypoints that are given,
    DIR/smplx/NAME.npz, DIR/pose/NAME.png (unless a body is needed), keypoints beside the photo.
    `null_pose` takes none. Of the files only pose_maps.json is read: raises OmfaError if it says
    another style than `style`.
    """
    pose, keypoints, parse = files.pose, files.keypoints, files.parse
    search = pose is None and not null_pose
    if isinstance(files.photo, PathLike):
        path = to_path(files.photo)
        folder = path.parent.parent
        if search and keypoints is None:
            pose = _find_first(folder, ("smplx",), f"{path.stem}.npz")
            if pose is None and not needs_body:
                pose = _find_first(folder, ("pose",), f"{path.stem}.png")
            if pose is not None:
                log.info("%s: the pose is %s", files.name, pose)
        for end in ("_keypoints", ""):
            keypoints = keypoints or _find_first(folder, KEYPOINT_DIRS, f"{path.stem}{end}.json")
        parse = parse or _find_first(folder, PARSE_DIRS, f"{path.stem}.png")
    # the name of a library pose is no file
    if pose is not None and to_path(pose).suffix not in ("", ".npz"):
        require_map_style(pose, style, f"{files.prefix}pose")
    fits = search and pose is None and keypoints is not None
    return replace(
        files,
        pose=pose,
        keypoints=keypoints,
        parse=parse,
        keypoints_beside=files.keypoints is None,
        pose_beside=files.pose is None,
        fit_keypoints=fits,
        null_pose=null_pose,
    )


def list_files(files: PersonFiles) -> dict[str, str]:
    """Return the paths of a person's files by the name of their flag, such as source_pose."""
    prefix = files.prefix.strip("-").replace("-", "_")
    paths = {
        "person": files.photo,
        "face": files.face,
        "pose": files.pose,
        "keypoints": files.keypoints,
        "parse": files.parse,
    }
    return {
        f"{prefix}_{name}".strip("_"): os.fspath(path)
        for name, path in paths.items()
        if isinstance(path, PathLike)
    }


def read_photo_keypoints(
    files: PersonFiles, height_px: int, width_px: int
) -> PhotoKeypoints | None:
    """Return the keypoints of a photo of that size, in BODY_25's order.

    None without keypoints, and if they show nobody. Raises OmfaError for a given file that cannot
    be used; one that was found beside the photo is left out with a warning.
    """
    if files.keypoints is None:
        return None
    try:
        found = read_keypoints(
            files.keypoints,
            (width_px, height_px),
            photo=files.photo if isinstance(files.photo, PathLike) else "",
            person_index=files.person_index,
        )
    except KeypointsError as error:
        # a file without a person says that much: the parse map may show the face
        is_empty = isinstance(error, NoPersonError)
        if files.person_index is not None or not (files.keypoints_beside or is_empty):
            raise
        log.warning("%s; not used", error)
        return None
    for note in found.notes:
        log.warning("%s: %s", files.keypoints, note)
    return found


def find_face(
    files: PersonFiles,
    photo: UInt8[np.ndarray, "h w 3"],
    points: Float[np.ndarray, "joints 3"] | None,
    *,
    required: bool,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the face of a photo, cropped with keypoint rows or the parse map of `files`.

    If no face is found, that is an OmfaError, or a white image as in training if it is not
    required.
    """
    prefix, labels = files.prefix, None
    if files.parse is not None:
        labels = read_labels(files.parse, f"parse map ({prefix}parse)")
    box = find_face_box(points, labels, *photo.shape[:2])
    if box is not None:
        return crop_face(photo, box)
    if required:
        raise OmfaError(
            f"no face found for {files.name}: give a photo in which it is seen, or"
            f" {prefix}face IMAGE, or {prefix}keypoints JSON or {prefix}parse PNG that show one"
        )
    log.warning(
        "no face found for %s: its slot stays white; pass %sface to set it", files.name, prefix
    )
    return np.full((8, 8, 3), WHITE, np.uint8)


def _find_first(folder: AnyPath, names: tuple[str, ...], file: str) -> AnyPath | None:
    return next((path for name in names if (path := folder / name / file).is_file()), None)
