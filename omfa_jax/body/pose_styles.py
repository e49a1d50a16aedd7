"""Pose map styles: the colour of every vertex, independent of the renderer."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.body.vertex_normals import compute_vertex_normals
from omfa_jax.core.errors import OmfaError, make_unknown_name_error

STYLES = ("normals", "positions", "parts", "shaded")

_LIGHT = np.array([0.30, 0.50, 0.81])
_AMBIENT = 0.25
_ALBEDO = 0.85


class PaintedMesh(NamedTuple):
    """A mesh in camera axes with a colour (0..1) per vertex, to be rendered without lighting."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"]
    colors: Float[np.ndarray, "v 3"]


def paint(
    style: str,
    vertices: Float[np.ndarray, "v 3"],
    faces: Int32[np.ndarray, "f 3"],
    body: BodyModel | None,
) -> PaintedMesh:
    """Return the mesh (camera axes, metres) coloured in `style`.

    normals: (n + 1) / 2 with x right, y up, z towards the viewer. positions: each vertex's position
    on the body in the rest pose. parts: one flat colour per body part. The latter two need the
    `body` that the mesh was posed from. shaded: grey, lit from the upper right behind the camera.
    Raises OmfaError for an unknown style or a `body` that does not match.
    """
    if style not in STYLES:
        raise make_unknown_name_error("pose map style", style, STYLES)
    if style in ("parts", "positions"):
        if body is None or len(body.v_template) != len(vertices):
            came = "none" if body is None else f"one of {len(body.v_template)}"
            raise OmfaError(
                f"style {style!r} needs the body model of these {len(vertices)} vertices;"
                f" got {came}"
            )
        if style == "parts":
            return _paint_parts(vertices, faces, body.part_ids)
        return PaintedMesh(vertices, faces, compute_rest_positions(body))
    # from camera axes (y down, z forward) to the viewer's (y up, z backward)
    normals = compute_vertex_normals(vertices, faces) * (1.0, -1.0, -1.0)
    if style == "normals":
        return PaintedMesh(vertices, faces, (normals + 1) / 2)
    lit = np.clip(normals @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    grey = _ALBEDO * (_AMBIENT + (1 - _AMBIENT) * lit)
    return PaintedMesh(vertices, faces, np.repeat(grey[:, None], 3, axis=1))


def compute_rest_positions(body: BodyModel) -> Float[np.ndarray, "v 3"]:
    """Return each vertex's position in the rest pose, scaled to 0..1: the same in every pose.

    Red runs from the right hand to the left, green from the soles to the crown, blue from back to
    front: a dense correspondence like NOCS (arXiv 1901.02970), which shows where on the body each
    pixel is. The trunk, which clothes cover, gets half of red's range (between the shoulder joints)
    and three fifths of green's (from pelvis to neck).
    """
    x, y, z = body.v_template.T.astype(np.float64)
    joints = body.joint_template
    shoulder = joints[JOINT_INDEX["left_shoulder"], 0]
    pelvis, neck = joints[JOINT_INDEX["pelvis"], 1], joints[JOINT_INDEX["neck"], 1]
    # piecewise: a linear red would give most of its range to the arms of the T-pose
    aside = np.interp(np.abs(x), (0, shoulder, np.abs(x).max()), (0, 0.5, 1))
    height = np.interp(y, (y.min(), pelvis, neck, y.max()), (0, 0.2, 0.8, 1))
    front = (z - z.min()) / np.ptp(z)
    return np.stack([0.5 + 0.5 * np.sign(x) * aside, height, front], axis=1)


@functools.cache
def make_palette() -> Float[np.ndarray, "n 3"]:
    """Return 56 RGB colours (0..1), each as far as possible from those before, none near black."""
    levels = np.linspace(0, 1, 4)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    # black is the background
    grid = grid[grid.max(axis=1) > 0.5]
    chosen = [0]
    distance = np.linalg.norm(grid - grid[0], axis=1)
    while len(chosen) < len(grid):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(grid - grid[chosen[-1]], axis=1))
    return grid[chosen]


def _paint_parts(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int32[np.ndarray, "f 3"],
    part_ids: Int32[np.ndarray, "v"],
) -> PaintedMesh:
    corner = part_ids[faces]
    # the part that two corners share, else that of the first corner
    part = np.where(corner[:, 1] == corner[:, 2], corner[:, 1], corner[:, 0])
    colors = make_palette()[part % len(make_palette())]
    # each face gets its own vertices, so that colours are not interpolated between parts
    own = np.arange(faces.size, dtype=np.int32).reshape(-1, 3)
    return PaintedMesh(vertices[faces].reshape(-1, 3), own, np.repeat(colors, 3, axis=0))
