"""The shipped asset, its packing, and the steps that baked it."""

import anny_rig
import bake_body
import numpy as np
import pytest
from smplx_npz import write_smplx_npz

from omfa_jax.body.body_model import FREE_BODY_FILE, BodyModel, load_body_model
from omfa_jax.body.packed_body import pack, unpack
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.smplx_forward import compute_skinning_transforms
from omfa_jax.body.smplx_joints import EXTRA_JOINT_VERTICES, JOINT_INDEX, JOINTS, PARENTS


@pytest.fixture(scope="module")
def model() -> BodyModel:
    return load_body_model()


def dense(model: BodyModel) -> dict[str, np.ndarray]:
    return {
        "v_template": model.v_template,
        "f": model.faces,
        "shapedirs": model.shapedirs,
        "J_regressor": model.joint_regressor,
        "kintree_table": np.stack([model.parents, np.arange(55)]),
        "weights": model.weights,
    }


def test_the_shipped_body_is_small_whole_and_symmetric(model: BodyModel):
    assert FREE_BODY_FILE.stat().st_size <= 1_200_000
    assert model.v_template.shape == (13718, 3) and model.faces.shape == (27420, 3)
    assert model.posedirs is None and not model.exprdirs.any()
    np.testing.assert_allclose(model.weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(model.joint_regressor.sum(1), 1, atol=1e-5)
    assert (model.weights > 0).sum(1).max() <= 8
    edges = np.sort(np.concatenate([model.faces[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert uses.max() == 2, "no edge has three faces"
    for name in ("hip", "wrist", "thumb3", "eye"):
        left, right = (model.joint_template[JOINT_INDEX[f"{s}_{name}"]] for s in ("left", "right"))
        np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-3)


def test_faces_wind_counter_clockwise_from_outside(model: BodyModel):
    a, b, c = (model.v_template[model.faces[:, i]].astype(np.float64) for i in range(3))
    volume_m3 = np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6
    assert 0.05 < volume_m3 < 0.11


def test_packing_loses_nothing_that_shows(model: BodyModel):
    arrays = dense(model)
    again = unpack(pack(arrays))
    for key in ("v_template", "f", "J_regressor"):
        np.testing.assert_array_equal(again[key], arrays[key])
    np.testing.assert_allclose(again["shapedirs"], arrays["shapedirs"], atol=5.1e-6)
    np.testing.assert_allclose(again["weights"], arrays["weights"], atol=2e-5)
    with pytest.raises(ValueError, match="65,536"):
        pack(arrays | {"shapedirs": arrays["shapedirs"] + 1})


def test_write_smplx_npz_reads_back_as_the_same_model(model: BodyModel, tmp_path):
    write_smplx_npz(model, tmp_path / "SMPLX_FREE.npz")
    again = load_body_model(tmp_path / "SMPLX_FREE.npz")
    for name in ("v_template", "faces", "shapedirs", "exprdirs", "joint_regressor", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert again.posedirs is None


def test_extra_joint_vertices_sit_where_their_names_say(model: BodyModel):
    at = {name: model.v_template[index] for name, index in EXTRA_JOINT_VERTICES.items()}
    found = bake_body.extra_joint_vertices(model.v_template, model.weights, model.joint_template)
    assert found == EXTRA_JOINT_VERTICES
    assert at["left_middle"][0] > 0.9 and at["right_middle"][0] < -0.9
    assert at["left_big_toe"][2] > at["left_heel"][2] + 0.2
    assert at["nose"][1] < at["left_eye"][1] < at["nose"][1] + 0.06


def test_bones_merge_into_joints_by_the_table():
    pairs = {
        "root": "pelvis",
        "pelvis.L": "pelvis",
        "upperleg02.R": "right_hip",
        "toe5-3.L": "left_foot",
        "spine03": "spine2",
        "shoulder01.L": "left_collar",
        "metacarpal4.R": "right_wrist",
        "finger5-2.R": "right_pinky2",
        "eye.L": "left_eye",
    }
    for bone, joint in pairs.items():
        assert JOINTS[anny_rig.joint_of_bone(bone)] == joint
    with pytest.raises(ValueError, match="tail01"):
        anny_rig.joint_of_bone("tail01")
    weights = np.array([[0.2, 0.3, 0.25], [0.0, 0.0, 0.5]])
    merged = anny_rig.merge_weights(weights, ("root", "pelvis.R", "head"))
    np.testing.assert_allclose(merged[:, [0, 15]], [[2 / 3, 1 / 3], [0, 1]])


def test_t_pose_straightens_bent_limbs_and_keeps_feet_flat(model: BodyModel):
    local = np.tile(np.eye(3), (55, 1, 1))
    bent = {"left_shoulder": (0, 0, -0.8), "right_elbow": (0, 0.4, 0), "left_hip": (0.2, 0, 0.1)}
    for joint, turn in bent.items():
        local[JOINT_INDEX[joint]] = axis_angle_to_matrix(np.array([turn]))[0]
    # the foot stays level while the leg above it turns
    local[JOINT_INDEX["left_ankle"]] = local[JOINT_INDEX["left_hip"]].T
    transforms, joints = compute_skinning_transforms(local, model.joint_template, PARENTS)
    vertices = np.einsum("vj,jab,vb->va", model.weights, transforms[:, :, :3], model.v_template)
    vertices = vertices + model.weights @ transforms[:, :, 3]
    posed, posed_joints = anny_rig.pose_as_t(vertices, joints, model.weights.astype(np.float64))
    np.testing.assert_allclose(posed_joints, model.joint_template, atol=0.012)
    heel, toe = (posed[EXTRA_JOINT_VERTICES[n]] for n in ("left_heel", "left_big_toe"))
    assert abs(heel[1] - toe[1]) < 0.08


def test_shortest_turn_takes_one_direction_to_the_other_by_the_angle_between():
    a, b = np.array([1.0, 2, 0.5]), np.array([-0.3, 1, 2])
    turn = anny_rig._shortest_turn(a, b)
    np.testing.assert_allclose(turn @ a / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-12)
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose(np.linalg.norm(matrix_to_axis_angle(turn)), angle)


def test_shape_space_and_regressor_recover_the_model_they_are_shown(model: BodyModel):
    rng = np.random.default_rng(2)
    kept = rng.permutation(13718)[:1500]
    betas = rng.normal(size=(60, 10))
    bodies = model.v_template[kept] + np.einsum("vck,nk->nvc", model.shapedirs[kept], betas)
    joints = model.joint_template + np.einsum("jck,nk->njc", model.joint_dirs[:, :, :10], betas)
    mean, shapedirs, mean_joints, joint_dirs = bake_body.shape_space(bodies, joints)
    assert shapedirs.shape == (1500, 3, 10)
    height = np.einsum("vk,v->k", shapedirs[:, 1], mean[:, 1] - mean[:, 1].mean())
    assert (height >= 0).all(), "a positive beta is taller"
    # ten components explain bodies that have ten degrees of freedom
    basis = shapedirs.reshape(-1, 10)
    centred = (bodies - mean).reshape(60, -1).T
    left = centred - basis @ np.linalg.lstsq(basis, centred, rcond=None)[0]
    assert np.abs(left).max() < 1e-6
    regressor = bake_body.joint_regressor(mean, shapedirs, mean_joints, joint_dirs)
    np.testing.assert_allclose(regressor.sum(1), 1)
    assert (regressor != 0).sum(1).max() <= 256
    assert np.abs(regressor @ mean - mean_joints).max() < 2e-3


def test_jaw_weights_are_the_share_of_the_turn():
    from_jaw = np.array([[0, -0.05, 0.09], [0, -0.05, 0.08], [0, 0, 0.1], [0, 0.1, 0.0]])
    arm = np.cross([1.0, 0, 0], from_jaw)
    weights = np.zeros((4, 55))
    weights[:, JOINT_INDEX["head"]] = 1
    jawed = bake_body.add_jaw(weights, from_jaw, arm * np.array([[0.3], [0.3], [0.15], [0.0]]))
    np.testing.assert_allclose(jawed[:, JOINT_INDEX["jaw"]], [1, 1, 0.5, 0])
    np.testing.assert_allclose(jawed.sum(1), 1)


def test_reorder_keeps_the_mesh():
    arrays = {
        "v_template": np.arange(30000.0).reshape(10000, 3),
        "f": np.array([[1, 2, 3], [7, 8, 9]]),
        "shapedirs": np.zeros((10000, 3, 10)),
        "J_regressor": np.tile(np.arange(10000.0), (55, 1)),
        "weights": np.arange(10000.0)[:, None] * np.ones((1, 55)),
    }
    moved = bake_body.reorder(arrays, {"nose": 2, "left_ear": 9120})
    for name, old in {"nose": 2, "left_ear": 9120}.items():
        new = EXTRA_JOINT_VERTICES[name]
        np.testing.assert_array_equal(moved["v_template"][new], arrays["v_template"][old])
        assert moved["weights"][new, 0] == moved["J_regressor"][0, new] == old
    corners = moved["v_template"][moved["f"]]
    np.testing.assert_array_equal(corners, arrays["v_template"][arrays["f"]])
