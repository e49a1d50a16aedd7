"""Load images and bodies from files into arrays at the model's slot sizes."""

import os
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import letterbox, read_rgb, to_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.sampling.image_like import ImagesLike, read_image_like, require_signed, to_array
from omfa_jax.sampling.photo_frame import PhotoFrame
from omfa_jax.sampling.pose_sources import draw_body, read_pose

WHITE, BLACK = 255, 0


class SlotFitter:
    """Fits images into a model's slots: letter-boxed, RGB, float32 in [-1, 1].

    `settings` is `model.settings`; `sizes` maps garment, person and face to (height, width) in
    pixels. A pose map has the person's size.

        slots = SlotFitter(model.settings)
        garment = slots.load_image("garment", "shirt.jpg")
        pose = slots.load_pose("me.npz")
    """

    def __init__(self, settings: DiffusionSettings):
        self.pose_style = settings.pose_style
        self.sizes = dict(zip(COMPONENTS, settings.slots_px, strict=True))

    def fit_image(
        self, component: str, image: UInt8[np.ndarray, "_ _ 3"]
    ) -> Float[np.ndarray, "1 h w 3"]:
        """Letter-box an image into its slot, in [-1, 1]; margins are white."""
        return to_signed(letterbox(image, *self.sizes[component], fill=WHITE))[None]

    def load_image(
        self, component: str, path: str | os.PathLike, flag: str | None = None
    ) -> Float[np.ndarray, "1 h w 3"]:
        """Read an image file into the slot of garment, person or face.

        `flag` is the command-line flag that error messages name. OmfaError if the file cannot be
        read.
        """
        what = f"{component} ({flag})" if flag else f"{component} image"
        return self.fit_image(component, read_rgb(path, what))

    def fit_images(self, component: str, images: ImagesLike) -> Float[np.ndarray, "b h w 3"]:
        """Letter-box images into the slot of garment, person, face or pose, in [-1, 1].

        An image is a path, a Pillow image, or an array (h, w, 3) of any size, uint8 or float in
        [-1, 1]; several are a list, or an array (b, h, w, 3). Float arrays of the slot's size are
        returned as they are. OmfaError for anything else.
        """
        if isinstance(images, list | tuple):
            if not images:
                raise OmfaError(f"{component}: expected at least one image, got an empty list")
            return np.concatenate([self.fit_images(component, one) for one in images])
        if not hasattr(images, "__array__") or not hasattr(images, "ndim"):
            return self._fit_one(component, images)
        array = to_array(images, component)
        if array.ndim != 4:
            array = array[None]
        size = self.sizes["person" if component == "pose" else component]
        if array.dtype.kind == "f" and array.shape[1:] == (*size, 3):
            # not through 8 bits
            require_signed(array, component)
            return array.astype(np.float32, copy=False)
        return np.concatenate([self._fit_one(component, one) for one in array])

    def _fit_one(self, component: str, image: Any) -> Float[np.ndarray, "1 h w 3"]:
        if component != "pose":
            return self.fit_image(component, read_image_like(image, component))
        if isinstance(image, str | os.PathLike):
            return self.load_pose(image)
        return self.fit_pose_map(read_image_like(image, "pose"))

    def load_pose(
        self, path: str | os.PathLike, smplx_model: str | None = None
    ) -> Float[np.ndarray, "1 h w 3"]:
        """Read a pose map, or render one of SMPL-X parameters with their camera (.npz).

        The body is rendered in the model's pose style, with the SMPL-X model of the file
        `smplx_model` or with the free body. OmfaError if a file cannot be read, the camera does not
        see the body, or pose_maps.json beside a map says another style than the model's.
        """
        source = read_pose(path, self.pose_style, smplx_model)
        return source.draw(PhotoFrame(source.size_px, self.sizes["person"]), self.pose_style)

    def fit_pose_map(self, image: UInt8[np.ndarray, "_ _ 3"]) -> Float[np.ndarray, "1 h w 3"]:
        """Letter-box a pose map into the person's slot; margins are black, like its background."""
        return to_signed(letterbox(image, *self.sizes["person"], fill=BLACK))[None]


def render_pose(
    params: BodyParams, camera: Camera, style: str, model_path: str | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Render a pose map in the style that the model was trained on (`settings.pose_style`)."""
    return draw_body(params, camera, style, load_body_model(model_path))
