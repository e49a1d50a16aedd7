"""The box around a person in a photo: from a body, from a pose map or from 2D keypoints."""

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.camera import Camera

# (left, top, right, bottom) in pixels of the photo, inside it
BodyBox = tuple[float, float, float, float]

# JPEG maps are off by some levels around the body
MAP_CONTRAST = 24
MIN_CONFIDENCE = 0.2
MIN_KEYPOINTS = 4
# keypoints end at eyes, wrists and ankles; crown, hands and toes are up to this far beyond
BEYOND_KEYPOINTS = 0.15


def find_body_box(vertices: Float[np.ndarray, "v 3"], camera: Camera) -> BodyBox | None:
    """Return the box of a body's vertices (world metres); None if the camera sees none of it."""
    pixels, _ = camera.project(vertices)
    return _enclose(pixels[np.isfinite(pixels).all(axis=1)], camera.width_px, camera.height_px)


def find_map_box(pose_map: UInt8[np.ndarray, "h w 3"]) -> BodyBox | None:
    """Return the box of what differs from a pose map's background; None for an empty map.

    The background is the usual colour of the upper edge and the sides: black in this project's
    maps, grey in those of other tools.
    """
    height, width = pose_map.shape[:2]
    edge = np.concatenate([pose_map[0], pose_map[:, 0], pose_map[:, -1]]).astype(np.int16)
    shown = (np.abs(pose_map - np.median(edge, axis=0)) > MAP_CONTRAST).any(axis=-1)
    y, x = np.nonzero(shown)
    # far corners of the outermost pixels
    corners = np.stack([np.append(x, x + 1), np.append(y, y + 1)], axis=1).astype(np.float64)
    return _enclose(corners, width, height)


def find_keypoint_box(
    rows: Float[np.ndarray, "k 3"], width_px: int, height_px: int
) -> BodyBox | None:
    """Return the box of confident keypoints (x px, y px, confidence), grown to crown and toes.

    None if fewer than 4 points inside the photo have a confidence of at least 0.2.
    """
    finite = rows[np.isfinite(rows).all(axis=1)]
    x, y, confidence = finite.T
    # detectors put missing points at (0, 0)
    inside = (x > 0) & (x < width_px) & (y > 0) & (y < height_px)
    seen = finite[inside & (confidence >= MIN_CONFIDENCE), :2]
    if len(seen) < MIN_KEYPOINTS:
        return None
    beyond = BEYOND_KEYPOINTS * np.ptp(seen, axis=0).max()
    return _enclose(np.concatenate([seen - beyond, seen + beyond]), width_px, height_px)


def join_boxes(boxes: list[BodyBox | None]) -> BodyBox | None:
    """Return the box around several boxes; None if there are none."""
    found = np.array([box for box in boxes if box is not None])
    if not len(found):
        return None
    return (*found[:, :2].min(axis=0).tolist(), *found[:, 2:].max(axis=0).tolist())


def _enclose(points: Float[np.ndarray, "n 2"], width_px: int, height_px: int) -> BodyBox | None:
    if not len(points):
        return None
    left, top = points.min(axis=0).tolist()
    right, bottom = points.max(axis=0).tolist()
    left, right = max(0.0, left), min(float(width_px), right)
    top, bottom = max(0.0, top), min(float(height_px), bottom)
    return (left, top, right, bottom) if left < right and top < bottom else None
