"""The outline of a fitted body beside that of a person mask, which moves the fit.

Keypoints are inside a body and hardly determine its widths. Points on the body's outline are sent
to the mask's along their normals, less a margin for clothes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.fit.keypoints import BODY_JOINTS
from omfa_jax.body.fit.outline_rows import NUM_POINTS, OutlinePoints, make_no_points
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import PARENTS, PARTS
from omfa_jax.body.vertex_normals import compute_vertex_normals
from omfa_jax.body.zbuffer import rasterize

# hair, hands and shoes are not the body's; the neck is behind hair and collars
WITHOUT_OUTLINE = ("head", "neck", "wrist", "ankle", "foot")
# metres: how far apart the outlines may be
REACH_M = 0.1


class Cloth(NamedTuple):
    """How far clothes are from the skin of a part of the body, and how much that varies, metres."""

    margin_m: float
    spread_m: float


# Tops hang 3 to 4 cm from the belly and hips of the synthetic people. With the whole of that, hips
# are right on average, but bodies under tight tops are too slim: pictures of what was fitted keep
# 77% of the pose's influence, with half of it 83%, without it 84% (bench/photo_influence.py).
CLOTHES = {
    "pelvis": Cloth(0.015, 0.04),
    "spine1": Cloth(0.015, 0.04),
    "spine2": Cloth(0.015, 0.04),
}
OTHER_CLOTHES = Cloth(0.005, 0.03)
# nothing of the body is outside of its mask, but the mask is blurred
SPREAD_M = 0.015
OUTLIER_M = 0.06
ARMS = ("shoulder", "elbow")
MIN_POINTS = 12
# the raster's longer side: its pixels are about 4 mm of the body
RASTER_PX = 512
STEPS = 65
EDGE_SHARE = 0.01


def find_outline_points(
    model: BodyModel, params: BodyParams, camera: Camera, mask: Float[np.ndarray, "h w"]
) -> OutlinePoints:
    """Return points of the body's outline with their lines on the mask's.

    Points without an outline of the mask within 10 cm are left out (an arm before the trunk), and
    far ones count less (Geman-McClure). Nothing is returned if fewer than 12 points remain.
    """
    vertices, joints = forward(model, params)
    distance = float(camera.to_camera(joints[:1].astype(np.float64))[0, 2])
    metre_px = camera.focal_px[0] / distance
    found, normals = find_outline(model, vertices, camera)
    pixels, _ = camera.project(vertices[found].astype(np.float64))
    gaps = measure_gaps(mask, pixels, normals, REACH_M * metre_px) / metre_px
    near = np.flatnonzero(np.isfinite(gaps))
    points = make_no_points()
    if len(near) < MIN_POINTS:
        return points
    # evenly over the outline from the feet up, and as many of the arms as of the rest
    near = near[np.argsort(vertices[found[near], 1], kind="stable")]
    names = np.array([PARTS[part].split("_")[-1] for part in model.part_ids[found]])
    is_arm = np.isin(names[near], ARMS)
    near = np.concatenate([_thin(near[is_arm]), _thin(near[~is_arm])])
    used, normals = found[near], normals[near]
    cloth = np.array([CLOTHES.get(name, OTHER_CLOTHES) for name in names[near]])
    beyond = gaps[near] - cloth[:, 0]
    spread = np.where(beyond > 0, cloth[:, 1], SPREAD_M)
    robust = 1 / (1 + (beyond / OUTLIER_M) ** 2)
    places = (pixels[near] - np.array(camera.center_px)) / camera.focal_px[0]
    count = len(near)
    points.rest[:count] = model.v_template[used]
    points.dirs[:count] = model.shapedirs[used]
    points.weights[:count] = _add_to_parents(model.weights[used].astype(np.float64))
    points.normals[:count] = normals
    points.targets[:count] = (places * normals).sum(1) + beyond / distance
    points.sureness[:count] = robust * distance / spread
    return points


def _thin(index: Int[np.ndarray, "n"]) -> Int[np.ndarray, "m"]:
    """Return at most NUM_POINTS / 2 entries, evenly."""
    at = np.linspace(0, max(0, len(index) - 1), NUM_POINTS // 2).round().astype(int)
    return index[np.unique(at)] if len(index) else index


def _add_to_parents(weights: Float[np.ndarray, "n 55"]) -> Float[np.ndarray, "n 22"]:
    for joint in range(len(PARENTS) - 1, BODY_JOINTS - 1, -1):
        weights[:, PARENTS[joint]] += weights[:, joint]
    return weights[:, :BODY_JOINTS]


def find_outline(
    model: BodyModel, vertices: Float[np.ndarray, "v 3"], camera: Camera
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 2"]]:
    """Return the vertices on the body's outline in the photo, and the outward normals there.

    Only of trunk and limbs, and where the other side of the outline is not the body's.
    """
    small = _shrink(camera)
    pixels, depth = small.project(vertices.astype(np.float64))
    raster = rasterize(
        np.concatenate([pixels, depth[:, None]], 1), model.faces, small.width_px, small.height_px
    )
    body = raster.triangle >= 0
    normals = compute_vertex_normals(vertices, model.faces) @ camera.rotation.T
    rays = camera.to_camera(vertices.astype(np.float64))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    flat = normals[:, :2] / np.maximum(np.linalg.norm(normals[:, :2], axis=1), 1e-9)[:, None]
    is_rim = np.abs((normals * rays).sum(1)) < 0.25
    parts = [i for i, name in enumerate(PARTS) if not name.endswith(WITHOUT_OUTLINE)]
    is_rim &= np.isin(model.part_ids, parts) & np.isfinite(pixels).all(1)
    index = np.flatnonzero(is_rim)
    # just outside is no body, just inside is
    outside = _look_up(body, pixels[index] + 2.5 * flat[index], beyond=True)
    inside = _look_up(body, pixels[index] - 2.5 * flat[index], beyond=False)
    index = index[~outside & inside]
    return index, flat[index]


def measure_gaps(
    mask: Float[np.ndarray, "h w"],
    pixels: Float[np.ndarray, "n 2"],
    normals: Float[np.ndarray, "n 2"],
    reach_px: float,
) -> Float[np.ndarray, "n"]:
    """Return how far outwards (in pixels) the mask ends from each point; below 0 inwards.

    The crossing of 0.5 nearest to the point that leaves the mask, within `reach_px`; nan if there
    is none, or if it is at the photo's edge.
    """
    height, width = mask.shape
    steps = np.linspace(-reach_px, reach_px, STEPS)
    at = pixels[:, None] + steps[:, None] * normals[:, None]
    x, y = np.floor(np.nan_to_num(at, nan=-1.0)).astype(np.int64).transpose(2, 0, 1)
    values = mask[y.clip(0, height - 1), x.clip(0, width - 1)].astype(np.float64)
    edge_x, edge_y = EDGE_SHARE * width, EDGE_SHARE * height
    is_in = (x > edge_x) & (x < width - edge_x) & (y > edge_y) & (y < height - edge_y)
    leaves = (values[:, :-1] >= 0.5) & (values[:, 1:] < 0.5) & is_in[:, :-1] & is_in[:, 1:]
    share = (values[:, :-1] - 0.5) / np.maximum(values[:, :-1] - values[:, 1:], 1e-6)
    crossings = np.where(leaves, steps[:-1] + share * (steps[1] - steps[0]), np.nan)
    distance = np.where(leaves, np.abs(crossings), np.inf)
    best = distance.argmin(axis=1)
    return crossings[np.arange(len(pixels)), best]


def _shrink(camera: Camera) -> Camera:
    scale = min(1.0, RASTER_PX / max(camera.width_px, camera.height_px))
    sides = (max(1, round(side * scale)) for side in (camera.width_px, camera.height_px))
    return camera.resize(*sides)


def _look_up(body: np.ndarray, pixels: Float[np.ndarray, "n 2"], *, beyond: bool) -> np.ndarray:
    """Return the raster's values at pixels, `beyond` outside of it."""
    height, width = body.shape
    x, y = np.floor(pixels).astype(np.int64).T
    is_in = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.where(is_in, body[y.clip(0, height - 1), x.clip(0, width - 1)], beyond)
