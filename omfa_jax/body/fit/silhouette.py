"""The outline of a fitted body beside that of a person mask, as rows for another fit.

Keypoints are inside a body and hardly determine its widths. Here the body's outline is compared
with the mask's along its normals, with position and betas free and the pose as it is, and condensed
to linear rows (Gauss-Newton), so that the compiled fit need not draw anything.
"""

import numpy as np
from jaxtyping import Float, Int

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.fit.keypoint_projection import OUTLINE
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smplx_forward import compute_skinning_transforms, forward, skin
from omfa_jax.body.smplx_joints import PARTS
from omfa_jax.body.vertex_normals import compute_vertex_normals
from omfa_jax.body.zbuffer import rasterize

# hair, hands and shoes are not the body's; the neck is behind hair and collars
WITHOUT_OUTLINE = ("head", "neck", "wrist", "ankle", "foot")
# metres: how far apart the outlines may be, and how far clothes are from the skin
REACH_M = 0.08
CLOTHES_M = 0.015
SPREAD_M = 0.012
# cloth hangs away from the body, but nothing of the body is outside of its mask
LOOSE_SPREAD_M = 0.03
OUTLIER_M = 0.03
# outline points are correlated: the whole outline counts as so many
NUM_INDEPENDENT = 60
# the raster's longer side: its pixels are about 4 mm of the body
RASTER_PX = 512
STEPS = 65
EDGE_SHARE = 0.01


def make_no_rows() -> Float[np.ndarray, "13 14"]:
    """Return rows that say nothing."""
    return np.zeros((len(OUTLINE), len(OUTLINE) + 1))


def make_outline_rows(
    model: BodyModel, params: BodyParams, camera: Camera, mask: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "13 14"]:
    """Return rows (A, c) with |A x + c|^2 the squared distance of the outlines in deviations.

    x are the entries OUTLINE of the fit's parameters. Points without an outline of the mask within
    8 cm are left out (an arm before the trunk), and outliers count less (Geman-McClure). Rows are
    zero if fewer than 20 points remain.
    """
    vertices, joints = forward(model, params)
    places = camera.to_camera(vertices.astype(np.float64))
    pelvis = camera.to_camera(joints[:1].astype(np.float64))[0]
    found, normals = find_outline(model, vertices, camera)
    metre_px = camera.focal_px[0] / pelvis[2]
    pixels, _ = camera.project_camera_points(places[found])
    gaps = measure_gaps(mask, pixels, normals, REACH_M * metre_px) / metre_px
    near = np.isfinite(gaps)
    if near.sum() < 20:
        return make_no_rows()
    found, normals, gaps = found[near], normals[near], gaps[near]
    by_x = _differentiate(model, params, camera, found) / metre_px
    by_x = (normals[:, :, None] * by_x).sum(1)
    # moving the point outwards shrinks the gap
    beyond = gaps - CLOTHES_M
    spread = np.where(beyond > 0, LOOSE_SPREAD_M, SPREAD_M)
    robust = 1 / (1 + (beyond / OUTLIER_M) ** 2) ** 2
    weights = np.sqrt(robust * NUM_INDEPENDENT / len(gaps)) / spread
    x = np.concatenate([pelvis[:2] / pelvis[2], [np.log(pelvis[2])], params.betas])
    rows = np.concatenate([by_x, -(by_x @ x + beyond)[:, None]], axis=1) * weights[:, None]
    # the triangle has the same sums of squares, but for a constant
    triangle = np.linalg.qr(rows, mode="r")[: len(OUTLINE)]
    full = make_no_rows()
    full[: len(triangle)] = triangle
    return full


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


def _differentiate(
    model: BodyModel, params: BodyParams, camera: Camera, index: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n 2 13"]:
    """Return the derivatives of vertices' pixels by place, log depth and betas; exact in pose."""
    turns = axis_angle_to_matrix(params.get_full_pose())
    rest = model.v_template[index] + model.shapedirs[index] @ params.betas
    joints = model.joint_template + model.joint_dirs[:, :, :10] @ params.betas

    def pose(rest: np.ndarray, joints: np.ndarray) -> np.ndarray:
        # a body is placed by its pelvis
        transforms, posed = compute_skinning_transforms(turns, joints, model.parents)
        return skin(rest, model.weights[index], transforms) - posed[0]

    base = pose(rest, joints)
    moves = [
        pose(rest + model.shapedirs[index, :, i], joints + model.joint_dirs[:, :, i]) - base
        for i in range(10)
    ]
    pelvis = camera.to_camera(joints[:1] + params.transl)[0]
    places = base @ camera.rotation.T + pelvis
    by_at = np.zeros((len(index), 3, 2))
    by_at[:, [0, 1], [0, 1]] = pelvis[2]
    by_depth = np.broadcast_to(pelvis[:, None], (len(index), 3, 1))
    by_betas = np.stack(moves, axis=-1).transpose(0, 2, 1) @ camera.rotation.T
    by_x = np.concatenate([by_at, by_depth, by_betas.transpose(0, 2, 1)], axis=-1)
    depth = places[:, 2, None, None]
    seen = places[:, :2, None] / depth
    return (by_x[:, :2] - seen * by_x[:, 2:]) / depth * np.array(camera.focal_px)[:, None]


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
