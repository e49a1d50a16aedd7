"""Posed meshes against the smplx package, and against facts that need no other package."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from smplx_npz import write_smplx_npz

from omfa_jax.body.body_model import BodyModel, load_body_model
from omfa_jax.body.body_params import (
    PARAM_SHAPES,
    BodyParams,
    make_neutral_params,
    make_params_from_pose,
)
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import (
    EXTRA_JOINT_VERTICES,
    JOINT_INDEX,
    JOINTS,
    PARENTS,
    PARTS,
    get_part,
)
from omfa_jax.core.errors import OmfaError

TOLERANCE_M = 1e-5


@pytest.fixture(scope="module")
def free_body() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in SMPL-X's format: random numbers, pose correctives, an object array."""
    rng = np.random.default_rng(7)
    vertices = 9930
    regressor = np.zeros((55, vertices))
    for row in regressor:
        row[rng.choice(vertices, 8, replace=False)] = rng.dirichlet(np.ones(8))
    weights = np.zeros((vertices, 55))
    for row in weights:
        row[rng.choice(55, 5, replace=False)] = rng.dirichlet(np.ones(5))
    path = tmp_path_factory.mktemp("model") / "SMPLX_NEUTRAL.npz"
    np.savez(
        path,
        v_template=rng.uniform(-1, 1, (vertices, 3)),
        f=rng.integers(0, vertices, (500, 3)).astype(np.uint32),
        shapedirs=rng.normal(0, 0.01, (vertices, 3, 400)),
        posedirs=rng.normal(0, 0.001, (vertices, 3, 486)),
        J_regressor=regressor,
        kintree_table=np.stack([PARENTS, np.arange(55)]).astype(np.uint32),
        weights=weights,
        hands_componentsl=np.eye(45),
        hands_componentsr=np.eye(45),
        hands_meanl=np.zeros(45),
        hands_meanr=np.zeros(45),
        lmk_faces_idx=np.zeros(51, np.int64),
        lmk_bary_coords=np.full((51, 3), 1 / 3),
        part2num=np.array({"an object": 1}, dtype=object),
    )
    return path


def random_params(seed: int) -> BodyParams:
    rng = np.random.default_rng(seed)
    return BodyParams(**{name: rng.normal(0, 0.5, shape) for name, shape in PARAM_SHAPES.items()})


def smplx_forward(path: Path, params: BodyParams) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smplx = pytest.importorskip("smplx", reason="the oracle smplx is not installed")
        torch = pytest.importorskip("torch", reason="smplx needs torch, which is not installed")
        layer = smplx.SMPLX(
            str(path),
            use_pca=False,
            flat_hand_mean=True,
            num_betas=10,
            num_expression_coeffs=10,
        )
        with torch.no_grad():
            out = layer(**{k: torch.tensor(v.reshape(1, -1)) for k, v in params.as_dict().items()})
    return out.vertices[0].numpy(), out.joints[0].numpy()


@pytest.mark.parametrize("seed", [0, 1])
def test_random_model_equals_smplx(random_file: Path, seed: int):
    params = random_params(seed)
    vertices, joints = forward(load_body_model(random_file), params)
    want_vertices, want_joints = smplx_forward(random_file, params)
    assert np.abs(vertices - want_vertices).max() <= TOLERANCE_M
    assert np.abs(joints - want_joints[:55]).max() <= TOLERANCE_M


def test_free_body_equals_smplx_on_the_written_file(free_body: BodyModel, tmp_path: Path):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    write_smplx_npz(free_body, path)
    params = random_params(2)
    vertices, joints = forward(free_body, params)
    want_vertices, want_joints = smplx_forward(path, params)
    assert np.abs(vertices - want_vertices).max() <= TOLERANCE_M
    assert np.abs(joints - want_joints[:55]).max() <= TOLERANCE_M
    # smplx's joint 55 is the nose, 66 the left thumb: its fixed indices hit our vertices
    assert np.abs(want_joints[55] - vertices[EXTRA_JOINT_VERTICES["nose"]]).max() <= TOLERANCE_M
    thumb = vertices[EXTRA_JOINT_VERTICES["left_thumb"]]
    assert np.abs(want_joints[66] - thumb).max() <= TOLERANCE_M


def test_pose_correctives_and_expression_move_the_random_model(random_file: Path):
    model = load_body_model(random_file)
    assert model.posedirs is not None
    bent = make_neutral_params().replace(jaw_pose=[0.5, 0, 0])
    plain = dataclasses.replace(model, posedirs=None)
    moved = np.abs(forward(model, bent)[0] - forward(plain, bent)[0]).max()
    assert moved > 1e-4
    smiling = make_neutral_params().replace(expression=np.eye(10)[3])
    moved = forward(model, smiling)[0] - forward(model, make_neutral_params())[0]
    assert np.abs(moved).max() > 1e-3


def test_neutral_is_the_template_in_a_t_pose(free_body: BodyModel):
    vertices, joints = forward(free_body, make_neutral_params())
    np.testing.assert_allclose(vertices, free_body.v_template, atol=1e-6)
    np.testing.assert_allclose(joints[0], [0, -0.35, 0.01], atol=1e-4)
    height = np.ptp(vertices[:, 1])
    assert 1.75 < height < 1.95
    left, right = joints[JOINT_INDEX["left_wrist"]], joints[JOINT_INDEX["right_wrist"]]
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-3)
    assert left[0] > 0.6, "the left hand is at +x"
    assert joints[JOINT_INDEX["left_eye"], 2] > joints[JOINT_INDEX["head"], 2], "the front is +z"


def test_global_orientation_turns_about_the_pelvis_and_translation_follows(free_body: BodyModel):
    turn = np.array([0.3, -1.2, 0.4])
    vertices, joints = forward(
        free_body, make_neutral_params().replace(global_orient=turn, transl=[1.0, 2.0, 3.0])
    )
    rest, rest_joints = forward(free_body, make_neutral_params())
    rotation = axis_angle_to_matrix(turn[None])[0]
    want = (rest - rest_joints[0]) @ rotation.T + rest_joints[0] + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(vertices, want, atol=1e-5)
    np.testing.assert_allclose(joints[0], rest_joints[0] + [1.0, 2.0, 3.0], atol=1e-5)


def test_an_elbow_moves_its_own_side_only(free_body: BodyModel):
    pose = np.zeros((55, 3))
    pose[JOINT_INDEX["left_elbow"]] = [0, -np.pi / 2, 0]
    vertices, joints = forward(free_body, make_params_from_pose(pose))
    rest, rest_joints = forward(free_body, make_neutral_params())
    arm = rest_joints[JOINT_INDEX["left_wrist"]] - rest_joints[JOINT_INDEX["left_elbow"]]
    bent = joints[JOINT_INDEX["left_wrist"]] - joints[JOINT_INDEX["left_elbow"]]
    np.testing.assert_allclose(bent, [-arm[2], arm[1], arm[0]], atol=1e-5)
    np.testing.assert_allclose(vertices[rest[:, 0] < 0], rest[rest[:, 0] < 0], atol=1e-6)


def test_an_open_jaw_lowers_the_chin_and_not_the_nose(free_body: BodyModel):
    opened, _ = forward(free_body, make_neutral_params().replace(jaw_pose=[0.3, 0, 0]))
    drop = free_body.v_template[:, 1] - opened[:, 1]
    assert drop.max() > 0.02
    assert abs(drop[EXTRA_JOINT_VERTICES["nose"]]) < 0.05 * drop.max()


def test_full_pose_has_the_order_of_smplx():
    names = {name: np.full(shape, i) for i, (name, shape) in enumerate(PARAM_SHAPES.items())}
    order = [int(row[0]) for row in BodyParams(**names).get_full_pose()]
    index = {name: i for i, name in enumerate(PARAM_SHAPES)}
    want = ["global_orient", *["body_pose"] * 21, "jaw_pose", "leye_pose", "reye_pose"]
    want += ["left_hand_pose"] * 15 + ["right_hand_pose"] * 15
    assert order == [index[name] for name in want]


def test_joint_table():
    assert len(JOINTS) == len(set(JOINTS)) == len(PARENTS) == 55
    assert all(parent < joint for joint, parent in enumerate(PARENTS))
    assert JOINTS[PARENTS[JOINT_INDEX["left_thumb3"]]] == "left_thumb2"
    assert JOINTS[PARENTS[JOINT_INDEX["right_pinky1"]]] == "right_wrist"
    assert (get_part("left_ring2"), get_part("jaw"), len(PARTS)) == ("left_wrist", "head", 22)


@pytest.mark.parametrize("vector", [[0, 0, 0], [1e-9, 0, 0], [0, np.pi, 0], [2.0, -1, 0.5]])
def test_axis_angle_inverts_rotation_matrices(vector: list[float]):
    np.testing.assert_allclose(
        matrix_to_axis_angle(axis_angle_to_matrix(np.array([vector], dtype=float))[0]),
        vector,
        atol=1e-8,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [({}, "missing v_template"), ({"weights": np.zeros((9, 24))}, "weights is (9, 24), expected")],
)
def test_other_models_are_refused_in_one_line(tmp_path: Path, content: dict, words: str):
    path = tmp_path / "SMPL.npz"
    keys = ("v_template", "f", "shapedirs", "J_regressor", "kintree_table")
    filler = {key: np.zeros((9, 24)) for key in keys} if content else {"x": np.zeros(1)}
    np.savez(path, **filler, **content)
    with pytest.raises(OmfaError) as caught:
        load_body_model(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(OmfaError, match="--smplx-model"):
        load_body_model(tmp_path / "absent.npz")
