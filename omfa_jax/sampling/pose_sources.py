"""Where a pose comes from: a pose map image, or SMPL-X bodies with the camera of a photo."""

import functools
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.body_box import BodyBox, find_body_box, find_map_box, join_boxes
from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.pose_map_style import require_map_style
from omfa_jax.body.render_body import render
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.turntable import make_turntable
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import letterbox, read_rgb, to_signed
from omfa_jax.core.paths import to_path
from omfa_jax.sampling.photo_frame import PhotoFrame

if TYPE_CHECKING:
    from omfa_jax.body.fit.fitter import Fitter

log = logging.getLogger(__name__)

BLACK = 0
ONE_FIT, _ONE_LOAD = threading.Lock(), threading.Lock()
# the source of a body that was fitted here, of BODY_SOURCES
FITTED = "keypoints"

PoseImages = Float[np.ndarray, "views h w 3"]


@dataclass(frozen=True, eq=False)
class PoseMap:
    """A pose map that was drawn before, in the frame of a photo."""

    image: UInt8[np.ndarray, "h w 3"]

    @property
    def size_px(self) -> tuple[int, int]:
        """The (height, width) of the map."""
        height, width = self.image.shape[:2]
        return height, width

    def find_box(self) -> BodyBox | None:
        """Return the box of the body in the map, in its pixels."""
        return find_map_box(self.image)

    def draw(self, frame: PhotoFrame, style: str) -> PoseImages:
        """Return the part of the map in the slot, in [-1, 1]; it has the style that it has."""
        del style
        return frame.fit(self.image, BLACK)


@dataclass(frozen=True, eq=False)
class PosedBodies:
    """One body, or the views of a turn, and the camera of the photo.

    `source` is that of `save_body`; `fitted_to` is "keypoints" or "photo" if the body was fitted
    here, "" if not.
    """

    bodies: Sequence[BodyParams]
    camera: Camera
    model: BodyModel
    source: str = ""
    fitted_to: str = ""

    @property
    def size_px(self) -> tuple[int, int]:
        """The (height, width) of the camera's photo."""
        return self.camera.height_px, self.camera.width_px

    def find_box(self) -> BodyBox | None:
        """Return the box around all views in the photo, in its pixels."""
        vertices = (forward(self.model, body)[0] for body in self.bodies)
        return join_boxes([find_body_box(found, self.camera) for found in vertices])

    def draw(self, frame: PhotoFrame, style: str) -> PoseImages:
        """Return the pose maps of all views in the slot, in [-1, 1].

        A crop is rendered at the slot's size, the whole photo at its own and then letter-boxed, as
        in training.
        """
        camera = self.camera if frame.crop is None else frame.fit_camera(self.camera)
        maps = [draw_body(body, camera, style, self.model) for body in self.bodies]
        return np.stack([to_signed(letterbox(found, *frame.slot_px, BLACK)) for found in maps])

    def turn(self, views: int) -> "PosedBodies":
        """Return so many views around the first body."""
        return replace(self, bodies=make_turntable(self.bodies[0], views))


PoseSource = PoseMap | PosedBodies


def read_pose(
    path: str | os.PathLike, style: str, smplx_model: str | None, flag: str = "--pose"
) -> PoseSource:
    """Return the pose of a file: a map as it is, or the body of an .npz.

    Raises OmfaError if the file cannot be read, or is a map whose pose_maps.json says another style
    than `style`.
    """
    if to_path(path).suffix == ".npz":
        params, camera = load_body(path)
        return PosedBodies([params], camera, get_body_model(smplx_model))
    require_map_style(path, style, flag)
    return PoseMap(read_rgb(path, f"pose map ({flag})"))


def fit_body(
    rows: Float[np.ndarray, "25 3"],
    size_px: tuple[int, int],
    smplx_model: str | None,
    name: str,
) -> PosedBodies | None:
    """Return the body fitted to a photo's keypoints, as `omfa data fit` does.

    `rows` are (x px, y px, confidence) in BODY_25's order; `size_px` is the photo's (height,
    width), and `name` says in messages where the keypoints are from. If the fit is rejected, the
    reason is logged and there is no body.
    """
    from omfa_jax.body.fit.fit_quality import find_confident_keypoints, find_missing_parts
    from omfa_jax.body.fit.keypoints import BODY_25

    refusal = "%s: no body from these keypoints: %s"
    height, width = size_px
    seen = find_confident_keypoints(BODY_25, rows, np.array([width, height], np.float64))
    # known before the fit is compiled, which takes longer than the fit
    if missing := find_missing_parts(BODY_25, seen):
        log.warning(refusal, name, missing)
        return None
    log.info("%s: fitting the body (compiling the first fit takes up to a minute)", name)
    # one at a time: a fit uses all cores, and of several first ones each would compile
    with ONE_FIT:
        fitter, model = get_fitter(smplx_model)
        (fit,) = fitter(rows[None], [(width, height)])
    if not fit.report.accepted:
        log.warning(refusal, name, fit.report.reason)
        return None
    log.info("%s: median error of the fit %.1f px", name, fit.report.median_px)
    return PosedBodies([fit.params], fit.camera, model, FITTED, "keypoints")


def get_body_model(path: str | None) -> BodyModel:
    """Return `load_body_model(path)`, read once for many people: the last one is kept."""
    changed = os.stat(path).st_mtime_ns if path is not None and os.path.isfile(path) else 0
    with _ONE_LOAD:
        return _load_body_model(path, changed)


@functools.lru_cache(maxsize=1)
def _load_body_model(path: str | None, changed: int) -> BodyModel:
    del changed
    return load_body_model(path)


@functools.lru_cache(maxsize=1)
def get_fitter(smplx_model: str | None) -> tuple["Fitter", BodyModel]:
    """Return the fit to BODY_25 keypoints and its body model, which compiles once."""
    from omfa_jax.body.fit.fitter import Fitter
    from omfa_jax.body.fit.keypoints import BODY_25

    model = get_body_model(smplx_model)
    return Fitter(model, BODY_25), model


def draw_body(
    params: BodyParams, camera: Camera, style: str, model: BodyModel
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pose map of a body; OmfaError if the camera does not see it."""
    vertices, _ = forward(model, params)
    image = render(vertices, model.faces, camera, style, body=model)
    # an empty pose map would be taken for a pose and not for the null pose
    if not image.any():
        raise OmfaError(
            "the body of --pose lies outside the image: its camera must look along +z with y"
            " down, the body in front of it"
        )
    return image
