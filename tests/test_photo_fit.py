"""Fits to a photo alone: depths of bones, and widths from the outline of a mask."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_params_from_pose
from omfa_jax.body.fit import silhouette
from omfa_jax.body.fit.bone_depths import (
    compute_bone_depths,
    get_depth_errors,
    read_bone_depths,
)
from omfa_jax.body.fit.fit_result import make_body_camera, make_body_params
from omfa_jax.body.fit.fitter import Fitter
from omfa_jax.body.fit.keypoint_projection import BETAS, DEPTH, POSE, SIZE, TURN, unpack_body
from omfa_jax.body.fit.keypoints import BLAZEPOSE, BODY_25, find_landmark_vertices
from omfa_jax.body.fit.outline_rows import compute_outline_rows, linearize_outline
from omfa_jax.body.fit.photo_fitter import make_rows
from omfa_jax.body.fit.pose_prior import TRUNK_SPREAD, compute_residuals
from omfa_jax.body.fit.skeleton import load_skeleton
from omfa_jax.body.landmarks import LANDMARK_INDEX, LANDMARK_NAMES, PersonLandmarks
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX, PARTS
from omfa_jax.body.zbuffer import rasterize
from omfa_jax.core.errors import OmfaError

MODEL = load_body_model()
SKELETON = load_skeleton(MODEL, points=BLAZEPOSE.points)
SIZE_PX = (384, 512)
FOCAL_PX = 2.5 * SIZE_PX[1]
FACING = jnp.eye(3)
# compiled: an array at a time takes ten seconds
unpack = jax.jit(lambda x: unpack_body(x, FACING))
compute = jax.jit(lambda body, points: compute_outline_rows(body, SKELETON, points))
linearize = jax.jit(lambda x, points: linearize_outline(x, FACING, SKELETON, points))


def make_x(betas: Any = 0.0):
    """Unknowns of a body 5 m away that faces the camera, its arms away from its trunk."""
    x = np.zeros(SIZE, np.float32)
    x[DEPTH], x[BETAS] = np.log(5.0), betas
    w = x[POSE].reshape(21, 3)
    for side, sign in (("left", 1), ("right", -1)):
        w[JOINT_INDEX[f"{side}_shoulder"] - 1, 2] = 0.5 * sign
        w[JOINT_INDEX[f"{side}_elbow"] - 1, 1] = -0.6 * sign
    x[POSE] = w.ravel()
    return x


def see_body(x):
    """Return body parameters and camera of unknowns."""
    body = unpack(jnp.asarray(x))
    one = {name: np.asarray(value, np.float64) for name, value in body._asdict().items()}
    one["pelvis"] = MODEL.joint_template[0] + MODEL.joint_dirs[0, :, :10] @ one["betas"]
    return make_body_params(one), make_body_camera(one, FOCAL_PX, *SIZE_PX)


def draw_mask(x):
    """Return the body's exact mask."""
    params, camera = see_body(x)
    vertices, _ = forward(MODEL, params)
    pixels, depth = camera.project(vertices.astype(np.float64))
    screen = np.concatenate([pixels, depth[:, None]], axis=1)
    return (rasterize(screen, MODEL.faces, *SIZE_PX).triangle >= 0).astype(np.float64)


def measure_widths(x):
    """Return the widths across the shoulders and hips of the body at rest, in metres."""
    marks = find_landmark_vertices(MODEL)
    rest = MODEL.v_template + MODEL.shapedirs @ x[BETAS]
    return np.array(
        [
            np.linalg.norm(rest[marks[f"left_{at}"]] - rest[marks[f"right_{at}"]])
            for at in ("acromion", "hip_side")
        ]
    )


def test_depths_of_landmarks_are_those_of_the_body():
    x = make_x()
    # turned aside, so that shoulders and hips have depths
    x[TURN] = (0.0, 0.4, 0.0)
    params, camera = see_body(x)
    _, joints = forward(MODEL, params)
    seen = camera.to_camera(joints.astype(np.float64))
    world = np.zeros((33, 3))
    for name in {name for bone in BLAZEPOSE.bones for name in bone}:
        world[LANDMARK_INDEX[name]] = seen[JOINT_INDEX[name]] - seen[0]
    confidence = np.ones(33)
    confidence[LANDMARK_INDEX["left_wrist"]] = 0.4
    world[LANDMARK_INDEX["right_knee"]] = np.nan
    depths, weights = read_bone_depths(BLAZEPOSE, world, confidence)
    unsure = [
        BLAZEPOSE.bones.index(bone)
        for bone in (("left_elbow", "left_wrist"), ("right_hip", "right_knee"))
    ]
    sure = np.delete(np.arange(8), unsure)
    assert not weights[unsure].any() and np.isfinite(depths).all()
    gains, spreads = get_depth_errors(BLAZEPOSE)
    np.testing.assert_allclose(weights[sure], (gains / spreads)[sure])
    body = unpack(jnp.asarray(x))
    found = np.asarray(jax.jit(lambda body: compute_bone_depths(body, SKELETON, BLAZEPOSE))(body))
    # of a detector that sees a share `gain` of the depth
    np.testing.assert_allclose(found[sure], (gains * depths)[sure], atol=1e-5)
    shoulders = BLAZEPOSE.bones.index(("left_shoulder", "right_shoulder"))
    assert abs(found[shoulders]) > 0.3 and abs(depths[shoulders]) > 1.3 * abs(found[shoulders])
    # the bent forearm points to the camera
    assert found[BLAZEPOSE.bones.index(("right_elbow", "right_wrist"))] < -0.2


def test_landmarks_are_where_their_names_say():
    pose = np.zeros((55, 3))
    vertices, joints = forward(MODEL, make_params_from_pose(pose))
    marks = find_landmark_vertices(MODEL)
    at = dict(
        zip(BLAZEPOSE.names, BLAZEPOSE.make_matrix() @ np.asarray(SKELETON.rest), strict=True)
    )
    assert tuple(at) == LANDMARK_NAMES
    for name, place in at.items():
        if not BLAZEPOSE.ties[name]:
            assert "eye" in name
            continue
        mirrored = name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        np.testing.assert_allclose(place, at[mirrored] * (-1, 1, 1), atol=6e-3)
    nose = vertices[marks["nose"]]
    assert 0.02 < nose[1] - at["mouth_left"][1] < 0.06 and at["mouth_left"][0] > 0.015
    np.testing.assert_allclose(at["left_hip"], joints[JOINT_INDEX["left_hip"]], atol=1e-5)
    above = at["left_shoulder"] - joints[JOINT_INDEX["left_shoulder"]]
    np.testing.assert_allclose(above, (0, 0.026, 0), atol=1e-5)
    # in the rest pose fingers point away from the wrist
    assert at["left_wrist"][0] < at["left_index"][0] < joints[JOINT_INDEX["left_index1"], 0]


def test_confidence_is_the_smaller_of_visibility_and_presence():
    rng = np.random.default_rng(0)
    visibility, presence = rng.random((2, 33))
    points = rng.random((33, 2)) * 100
    person = PersonLandmarks(
        points, np.zeros((33, 3)), visibility, presence, 1.0, (0.0, 0.0, 9.0, 9.0), np.ones((9, 9))
    )
    rows = make_rows(person)
    np.testing.assert_array_equal(rows[:, :2], points)
    np.testing.assert_array_equal(rows[:, 2], np.minimum(visibility, presence))


def test_gaps_are_measured_to_the_edge_that_leaves_the_mask():
    mask = np.zeros((100, 100))
    mask[:, 20:60] = 1
    pixels = np.array([[55.0, 50.0], [65.0, 50.0], [25.0, 50.0], [40.0, 50.0], [55.0, 100.5]])
    normals = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    gaps = silhouette.measure_gaps(mask, pixels, normals, 12.0)
    np.testing.assert_allclose(gaps[:3], [5, -5, 5], atol=0.6)
    # too far inside, and at the photo's edge, where the mask ends with the photo
    assert np.isnan(gaps[3:]).all()


def test_outline_gives_the_widths_of_a_body_of_known_shape(monkeypatch):
    monkeypatch.setattr(silhouette, "CLOTHES", {})
    monkeypatch.setattr(silhouette, "OTHER_CLOTHES", silhouette.Cloth(0.0, 0.02))
    rng = np.random.default_rng(3)
    true = make_x(rng.normal(size=10) * 0.8)
    mask, x = draw_mask(true), make_x()
    before = np.abs(measure_widths(x) / measure_widths(true) - 1)
    for _ in range(3):
        params, camera = see_body(x)
        points = silhouette.find_outline_points(MODEL, params, camera, mask)
        rows, by_x = linearize(jnp.asarray(x), points)
        free = by_x[:, BETAS]
        # the prior of the fit: betas in standard deviations
        step = np.linalg.solve(free.T @ free + np.eye(10), -free.T @ rows - x[BETAS])
        x[BETAS] += step
    after = np.abs(measure_widths(x) / measure_widths(true) - 1)
    assert before.max() > 0.15 and after.max() < 0.05, (before, after)


def test_each_part_has_the_margin_of_its_clothes(monkeypatch):
    params, camera = see_body(make_x())
    distance = camera.to_camera(forward(MODEL, params)[1][:1].astype(np.float64))[0, 2]
    gap_px = 0.05 * camera.focal_px[0] / distance
    monkeypatch.setattr(silhouette, "measure_gaps", lambda _, px, *more: np.full(len(px), gap_px))
    points = silhouette.find_outline_points(MODEL, params, camera, np.ones(SIZE_PX[::-1]))
    found: dict[str, list[float]] = {}
    for i in np.flatnonzero(points.sureness):
        (vertex,) = np.flatnonzero((MODEL.v_template == points.rest[i]).all(axis=1))[:1]
        place, _ = camera.project(forward(MODEL, params)[0][[vertex]].astype(np.float64))
        at = ((place[0] - camera.center_px) / camera.focal_px[0]) @ points.normals[i]
        margin = 0.05 - (points.targets[i] - at) * distance
        found.setdefault(PARTS[MODEL.part_ids[vertex]].split("_")[-1], []).append(margin)
    assert {"spine1", "spine2", "spine3", "elbow", "knee"} <= set(found)
    for name, margins in found.items():
        is_trunk = name in ("pelvis", "spine1", "spine2")
        cloth = silhouette.CLOTHES[name] if is_trunk else silhouette.OTHER_CLOTHES
        np.testing.assert_allclose(margins, cloth.margin_m, atol=1e-4)


def test_a_trunk_that_leans_to_the_camera_is_unlikely():
    # beside it: betas and the depth
    trunk, angle = -12, 0.1
    turn, pitch = axis_angle_to_matrix(np.array([(0, 1.0, 0), (angle, 0, 0)]))
    bent = np.zeros((21, 3))
    bent[[JOINT_INDEX[f"spine{number}"] - 1 for number in (1, 2, 3)], 0] = -angle / 3
    alone, straight, spines = (
        float(
            compute_residuals(jnp.asarray(w), jnp.asarray(facing), jnp.zeros(10), jnp.zeros(()))[
                trunk
            ]
        )
        for w, facing in (
            (np.zeros((21, 3)), turn @ pitch),
            (bent, turn @ pitch),
            (bent, turn),
        )
    )
    assert alone == pytest.approx(angle / TRUNK_SPREAD, rel=0.01)
    assert straight == pytest.approx(0, abs=0.01)
    assert spines == pytest.approx(-angle / TRUNK_SPREAD, rel=0.01)


def test_outline_rows_equal_their_linearisation():
    x = make_x()
    params, camera = see_body(x)
    points = silhouette.find_outline_points(MODEL, params, camera, draw_mask(make_x(0.5)))
    assert (points.sureness > 0).sum() >= silhouette.MIN_POINTS
    rows, by_x = linearize(jnp.asarray(x), points)
    moved = x.copy()
    moved[POSE[45:54]] += 1e-2
    moved[DEPTH] += 1e-2
    want = compute(unpack(jnp.asarray(moved)), points)
    np.testing.assert_allclose(rows + by_x @ (moved - x), want, atol=0.03)
    assert np.abs(want - rows).max() > 0.3


@pytest.mark.parametrize("mask", [np.zeros(SIZE_PX[::-1]), np.ones(SIZE_PX[::-1])])
def test_a_mask_without_an_outline_says_nothing(mask):
    params, camera = see_body(make_x())
    points = silhouette.find_outline_points(MODEL, params, camera, mask)
    assert not points.sureness.any()


def test_depths_for_keypoints_without_bones_are_refused():
    nothing = np.zeros((1, 8))
    with pytest.raises(OmfaError, match="BODY_25 has no bones"):
        Fitter(MODEL, BODY_25)(np.zeros((1, 25, 3)), [SIZE_PX], (nothing, nothing))
