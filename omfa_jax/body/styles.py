"""Looks of a pose map: what colour each point of the body gets, before any renderer sees it."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from omfa_jax.body.mesh import vertex_normals
from omfa_jax.core.errors import OmfaError, unknown

STYLES = ("normals", "parts", "shaded")

_LIGHT = np.array([0.30, 0.50, 0.81])
_AMBIENT = 0.25
_ALBEDO = 0.85


class Painted(NamedTuple):
    """A mesh in camera axes with a colour (0..1) per vertex, to be drawn without lighting."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"]
    colors: Float[np.ndarray, "v 3"]


def paint(
    style: str,
    vertices: Float[np.ndarray, "v 3"],
    faces: Int32[np.ndarray, "f 3"],
    part_ids: Int[np.ndarray, "v"] | None,
) -> Painted:
    """Return the mesh (camera axes, metres) coloured in `style`; raises OmfaError.

    normals: (n + 1) / 2 with x right, y up, z to the viewer. parts: one flat colour per part of
    `part_ids`, which must be given. shaded: grey, lit from the upper right behind the camera.
    """
    if style not in STYLES:
        raise unknown("pose map style", style, STYLES)
    if style == "parts":
        return _painted_parts(vertices, faces, part_ids)
    # camera axes are y down, z forward; normals as seen by the viewer are y up, z backward
    normals = vertex_normals(vertices, faces) * (1.0, -1.0, -1.0)
    if style == "normals":
        return Painted(vertices, faces, (normals + 1) / 2)
    lit = np.clip(normals @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    grey = _ALBEDO * (_AMBIENT + (1 - _AMBIENT) * lit)
    return Painted(vertices, faces, np.repeat(grey[:, None], 3, axis=1))


@functools.cache
def palette() -> Float[np.ndarray, "n 3"]:
    """Return 56 colours (RGB, 0..1), each as far as can be from all before it, none near black."""
    levels = np.linspace(0, 1, 4)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[grid.max(axis=1) > 0.5]
    chosen = [0]
    distance = np.linalg.norm(grid - grid[0], axis=1)
    while len(chosen) < len(grid):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(grid - grid[chosen[-1]], axis=1))
    return grid[chosen]


def _painted_parts(vertices: np.ndarray, faces: np.ndarray, part_ids: np.ndarray | None) -> Painted:
    if part_ids is None or len(part_ids) != len(vertices):
        came = "none" if part_ids is None else f"{len(part_ids)}"
        raise OmfaError(f"style 'parts' needs {len(vertices)} part_ids, one a vertex; got {came}")
    corner = part_ids[faces]
    # the part two corners share, else the first corner's
    part = np.where(corner[:, 1] == corner[:, 2], corner[:, 1], corner[:, 0])
    colors = palette()[part % len(palette())]
    # every face gets vertices of its own: colours must not blend between parts
    own = np.arange(faces.size, dtype=np.int32).reshape(-1, 3)
    return Painted(vertices[faces].reshape(-1, 3), own, np.repeat(colors, 3, axis=0))
