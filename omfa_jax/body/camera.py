"""The pinhole camera of a photo, in OpenCV axes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import compute_letterbox_box

MAX_SIDE_PX = 65_535  # largest side of a JPEG
MAX_FOCAL_PX = 1e9  # beyond any lens; larger values lose the body in rounding
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: x_cam = rotation @ x_world + translation, x right, y down, z forward.

    `focal_px` and `center_px` are (x, y) in pixels, where pixel (i, j) covers [i, i+1) x [j, j+1);
    `rotation` (3, 3) and `translation` (3,) in metres are float64. Raises OmfaError for a rotation
    that is not one, and for sizes and focal lengths that are not positive.
    """

    focal_px: tuple[float, float]
    center_px: tuple[float, float]
    width_px: int
    height_px: int
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def __post_init__(self) -> None:
        values = {
            "focal_px": _to_pair("focal_px", self.focal_px),
            "center_px": _to_pair("center_px", self.center_px),
            "width_px": _check_side(self.width_px),
            "height_px": _check_side(self.height_px),
            "rotation": _to_array("cam_rotation", self.rotation, (3, 3)),
            "translation": _to_array("cam_translation", self.translation, (3,)),
        }
        for name, value in values.items():
            # the dataclass is frozen
            object.__setattr__(self, name, value)
        if not 0 < min(self.focal_px) <= max(self.focal_px) <= MAX_FOCAL_PX:
            raise OmfaError(f"focal_px: expected two positive numbers, got {self.focal_px}")
        error = np.abs(self.rotation @ self.rotation.T - np.eye(3)).max()
        if error > _ROTATION_TOLERANCE or np.linalg.det(self.rotation) < 0:
            raise OmfaError("cam_rotation: expected a rotation matrix (orthonormal, determinant 1)")

    @property
    def size_text(self) -> str:
        """The image size as WIDTHxHEIGHT, for messages."""
        return f"{self.width_px}x{self.height_px}"

    def to_camera(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Return world points (metres) in camera axes (metres)."""
        return points @ self.rotation.T + self.translation

    def project_camera_points(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
        """Return (pixels, depth in metres) of points in camera axes.

        The pixels of points at or behind the camera (depth <= 0) are nan.
        """
        depth = points[:, 2]
        safe = np.where(depth > 0, depth, np.nan)[:, None]
        pixels = points[:, :2] / safe * np.array(self.focal_px) + np.array(self.center_px)
        return pixels, depth

    def project(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
        """Return (pixels, depth in metres) of world points; see `project_camera_points`."""
        return self.project_camera_points(self.to_camera(points))

    def resize(self, width_px: int, height_px: int) -> "Camera":
        """Return the camera of the photo letterboxed to another size (core.images.letterbox)."""
        top, left, height, width = compute_letterbox_box(
            (self.height_px, self.width_px), height_px, width_px
        )
        scale = np.array([width / self.width_px, height / self.height_px])
        return replace(
            self,
            focal_px=tuple(scale * self.focal_px),
            center_px=tuple(scale * self.center_px + np.array([left, top])),
            width_px=width_px,
            height_px=height_px,
        )

    def crop(self, left_px: int, top_px: int, width_px: int, height_px: int) -> "Camera":
        """Return the camera of a part of the photo, whose upper left corner is given."""
        x, y = self.center_px
        return replace(
            self,
            center_px=(x - left_px, y - top_px),
            width_px=width_px,
            height_px=height_px,
        )


def make_look_at_camera(
    eye: Any,
    target: Any,
    *,
    focal_px: float,
    width_px: int,
    height_px: int,
    up: Any = (0.0, 1.0, 0.0),
) -> Camera:
    """Return a camera at `eye` (metres) with `target` at the image centre and `up` upwards.

    Raises OmfaError if the viewing direction is zero or parallel to `up`.
    """
    eye = _to_array("eye", eye, (3,))
    forward = _to_array("target", target, (3,)) - eye
    right = np.cross(forward, _to_array("up", up, (3,)))
    if np.linalg.norm(right) < 1e-9:
        raise OmfaError(
            f"camera: the direction from {eye} to {target} is zero or parallel to up = {up}"
        )
    forward /= np.linalg.norm(forward)
    right /= np.linalg.norm(right)
    # forward x right points down, the camera's y
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(
        focal_px=(focal_px, focal_px),
        center_px=(width_px / 2, height_px / 2),
        width_px=width_px,
        height_px=height_px,
        rotation=rotation,
        translation=-rotation @ eye,
    )


def _check_side(value: Any) -> int:
    # written so that NaN is rejected
    if not 1 <= value <= MAX_SIDE_PX:
        raise OmfaError(f"image_size_px: expected sides of 1 to {MAX_SIDE_PX}, got {value}")
    return int(value)


def _to_array(name: str, value: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    array = np.array(value, dtype=np.float64)
    if array.size != int(np.prod(shape)) or not np.all(np.isfinite(array)):
        raise OmfaError(f"{name}: expected {shape} finite numbers, got shape {array.shape}")
    return array.reshape(shape)


def _to_pair(name: str, value: Any) -> tuple[float, float]:
    x, y = _to_array(name, value, (2,))
    return float(x), float(y)
