"""SMPL to SMPL-X: the fit recovers what made the mesh, copy21 puts pelvis on pelvis."""

from dataclasses import replace
from pathlib import Path

import body_estimates as dumps
import numpy as np
import pytest

from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.mesh_fit import _Mesh, _State, fit_mesh
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smpl_model import SmplModel, forward_smpl, load_smpl_model
from omfa_jax.body.smpl_to_smplx import SmplConverter, copy_joint_rotations, load_converter
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.vertex_correspondence import load_correspondence
from omfa_jax.core.errors import OmfaError


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A SMPL file whose mesh is the free body's in another order, and the map back."""
    folder = tmp_path_factory.mktemp("smpl")
    smpl, order = dumps.fake_smpl()
    dumps.save_smpl(folder / "smpl.npz", smpl)
    few = 400  # a dense matrix of all vertices would be 750 MB
    back = np.argsort(order)[:few]
    matrix = np.zeros((few, len(order)), np.float32)
    matrix[np.arange(few), back] = 1
    np.savez_compressed(folder / "map.npz", matrix=matrix)
    return folder


def conversion(way: str) -> tuple[SmplConverter, SmplModel]:
    """Return the conversion from a SMPL model of the free body's own topology, and that model."""
    model, (smpl, order) = dumps.free_body(), dumps.fake_smpl(shuffled=False)
    vertices = len(order)
    identity = load_correspondence("identity", source_vertices=vertices, target_vertices=vertices)
    return SmplConverter(way, model, smpl, identity), smpl


@pytest.mark.parametrize("seed", [0, 1])
def test_fit_recovers_the_shaped_body_that_copy21_cannot(seed: int):
    body = dumps.moved(dumps.some_smpl(seed, shaped=True), [0.1, 0.3, 20.0])
    fit, smpl = conversion("fit")
    target, joints = forward_smpl(smpl, body)
    params = fit(body)
    vertices, found = forward(fit.model, params)
    assert np.abs(vertices - target).max() < 1e-4
    np.testing.assert_allclose(found[:22], joints[:22], atol=1e-4)
    np.testing.assert_allclose(params.betas, body.betas, atol=2e-3)
    turned = axis_angle_to_matrix(params.body_pose) - axis_angle_to_matrix(body.body_pose[:21])
    assert np.abs(turned).max() < 1e-3
    copied = forward(fit.model, conversion("copy21")[0](body))[0]
    assert np.abs(copied - target).max() > 100 * np.abs(vertices - target).max()


def test_fit_s_derivatives_are_those_of_the_mesh():
    model, params = dumps.free_body(), dumps.some_smplx(5)
    mesh = _Mesh(model, np.arange(0, len(model.v_template), 300), params)
    state = _State(
        axis_angle_to_matrix(params.get_full_pose()),
        params.betas.astype(float),
        np.array([0.1, 0.2, 3]),
    )
    exact = mesh.jacobian(state)
    for column in range(0, exact.shape[1], 5):
        step = np.zeros(exact.shape[1])
        step[column] = 1e-5
        there, back = mesh.vertices(state.apply_step(step)), mesh.vertices(state.apply_step(-step))
        np.testing.assert_allclose(exact[:, column], (there - back).ravel() / 2e-5, atol=1e-8)


def test_fit_refuses_a_mesh_of_something_else():
    model = dumps.free_body()
    mesh = np.random.default_rng(0).normal(size=model.v_template.shape).astype(np.float32)
    with pytest.raises(OmfaError, match=r"cm from the SMPL mesh.*--correspondence"):
        fit_mesh(model, mesh[::40], make_neutral_params(), np.arange(0, len(mesh), 40))


def test_files_of_both_models_make_a_fit(files: Path):
    smpl, order = dumps.fake_smpl()
    loaded = load_smpl_model(files / "smpl.npz")
    body = dumps.moved(dumps.some_smpl(2, shaped=True), [0, 0, 10])
    np.testing.assert_allclose(
        forward_smpl(loaded, body)[0], forward_smpl(smpl, body)[0], atol=1e-6
    )
    found = load_correspondence(files / "map.npz", source_vertices=len(order), target_vertices=400)
    want = forward_smpl(dumps.fake_smpl(shuffled=False)[0], body)[0]
    np.testing.assert_allclose(found(forward_smpl(loaded, body)[0]), want[:400], atol=1e-6)
    with pytest.raises(OmfaError, match="expected"):
        load_correspondence(files / "map.npz", source_vertices=10, target_vertices=400)
    with pytest.raises(OmfaError, match="not SMPL, missing"):
        load_smpl_model(files / "map.npz")


def test_fit_without_its_files_says_which_and_whence(files: Path):
    with pytest.raises(OmfaError, match=r"missing: --smpl-model, --correspondence\..*smpl.is.tue"):
        load_converter(
            "fit",
            dumps.free_body(),
            smpl_path=None,
            correspondence_path=None,
            has_smplx_file=True,
            allow_pickle=False,
        )
    with pytest.raises(OmfaError, match="did you mean 'copy21'"):
        load_converter(
            "copy22",
            dumps.free_body(),
            smpl_path=None,
            correspondence_path=None,
            has_smplx_file=False,
            allow_pickle=False,
        )
    with pytest.raises(OmfaError, match="identity: the meshes have 5 and 6"):
        load_correspondence("identity", source_vertices=5, target_vertices=6)


def test_copy21_turns_about_the_pelvis_and_not_the_origin():
    smpl, _ = dumps.fake_smpl()
    body = dumps.moved(dumps.some_smpl(3, shaped=True), [0.4, -0.2, 15])
    _, joints = forward_smpl(smpl, body)
    for turn in ([0, 0, 0], [0, 2.0, 0], [1.5, 0.3, 0.2]):
        turned = replace(body, global_orient=np.array(turn, float))
        params = copy_joint_rotations(turned, dumps.free_body(), smpl)
        np.testing.assert_allclose(forward(dumps.free_body(), params)[1][0], joints[0], atol=1e-5)
        np.testing.assert_array_equal(params.body_pose, turned.body_pose[:21].astype(np.float32))
        assert not params.betas.any() and not params.left_hand_pose.any()
