"""Bodies of HMR2, AMASS and SMPLify-X land on the pixels where those tools show them."""

from pathlib import Path

import body_estimates as dumps
import numpy as np
import pytest
from body_estimates import BODY
from body_tool_files import (
    SIZE_PX,
    TIGHT_PX,
    dump,
    options,
    project,
    see,
    smplifyx_result,
)

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.hand_pose import HandBasis
from omfa_jax.body.importers.amass import AmassImporter
from omfa_jax.body.importers.champ import ChampImporter
from omfa_jax.body.importers.smplifyx import SmplifyXImporter
from omfa_jax.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from omfa_jax.core.errors import OmfaError


@pytest.fixture(scope="module")
def smpl():
    return dumps.fake_smpl()[0]


def test_hmr2_without_a_box_shows_the_whole_photo(tmp_path: Path, smpl, caplog):
    crop = dumps.Crop((240.0, 320.0), 640.0, (0.8, 0.1, -0.05))
    saved, pixels = dumps.champ_dict(smpl, [(dumps.some_smpl(1), crop)], SIZE_PX)
    out = {
        "pred_cam": np.array([crop.cam]),
        "pred_smpl_params": saved["smpls"],
        "pred_cam_t": np.array([[*crop.cam[1:], 2 * 5000 / (256 * crop.cam[0])]]),
        "focal_length": np.full((1, 2), 5000.0),
    }
    for name in "ab":
        dumps.save_dict(tmp_path / f"{name}.npy", out)
    source = ChampImporter(tmp_path, dumps.reading())
    for name in "ab":
        np.testing.assert_allclose(
            see(smpl, source.read(name, SIZE_PX))[:BODY], pixels[0][:BODY], atol=TIGHT_PX
        )
    assert caplog.text.count("no box_center and box_size") == 1
    # the parameters beside the cameras, and the camera of the photo
    flat = saved["smpls"] | {"pred_cam": out["pred_cam"], "pred_cam_t_full": saved["cam_t"]}
    dumps.save_npz(tmp_path / "c.npz", flat)
    found = ChampImporter(tmp_path / "c.npz", dumps.reading(allow_pickle=False)).read("c", SIZE_PX)
    np.testing.assert_allclose(see(smpl, found)[:BODY], pixels[0][:BODY], atol=TIGHT_PX)
    # beside the .npy files, the .npz is not read, and that is said
    assert list(ChampImporter(tmp_path, dumps.reading()).frames) == ["a", "b"]
    assert "reading its .npy files, not .npz" in caplog.text


@pytest.mark.parametrize("up", ["y", "z"])
def test_amass_is_upright_and_in_the_picture(tmp_path: Path, up: str, caplog):
    params = [dumps.some_smplx(seed).replace(global_orient=np.zeros(3)) for seed in range(3)]
    tilt = np.array([np.pi / 2, 0, 0]) if up == "z" else np.zeros(3)
    turned = matrix_to_axis_angle(
        axis_angle_to_matrix(tilt[None])[0] @ axis_angle_to_matrix(np.array([[0, 2.0, 0]]))[0]
    )
    poses = np.stack([p.replace(global_orient=turned).get_full_pose().ravel() for p in params])
    arrays = {"poses": poses, "trans": np.full((3, 3), 50.0), "betas": np.ones(300)}
    dumps.save_npz(tmp_path / "a.npz", arrays | {"expressions": np.zeros((3, 100))})
    found = AmassImporter(tmp_path, options(frame=1)).read("a", SIZE_PX)
    assert isinstance(found.body, BodyParams)
    np.testing.assert_allclose(found.body.body_pose, params[1].body_pose, atol=1e-6)
    np.testing.assert_allclose(found.body.left_hand_pose, params[1].left_hand_pose, atol=1e-6)
    np.testing.assert_array_equal(found.body.betas, np.ones(10))
    pixels = dumps.imported_pixels(found.body, found.camera)
    assert (pixels > 0).all() and (pixels < SIZE_PX).all()
    assert pixels[15, 1] < pixels[0, 1] < pixels[7, 1], "head above pelvis above ankle"
    # the left side of a person who looks into the camera is at the right
    assert pixels[1, 0] > pixels[2, 0]
    assert "no camera" in caplog.text
    with pytest.raises(OmfaError, match="3 frames; choose one with --frame, 0 to 2"):
        AmassImporter(tmp_path, options()).read("a", SIZE_PX)
    with pytest.raises(OmfaError, match="--frame: expected 0 to 2, got 3"):
        AmassImporter(tmp_path, options(frame=3)).read("a", SIZE_PX)


def test_amass_of_smplh_keeps_the_body(tmp_path: Path, smpl, caplog):
    body = dumps.some_smpl(2)
    poses = np.zeros((1, 156))
    poses[0, 3:66] = body.body_pose[:21].ravel()
    dumps.save_npz(tmp_path / "a.npz", {"poses": poses, "betas": np.zeros(16)})
    found = AmassImporter(tmp_path, options()).read("a", SIZE_PX)
    assert "SMPL-H's hands are left out" in caplog.text
    for model in (None, smpl):
        pixels = see(model, found)
        assert (pixels > 0).all() and (pixels < SIZE_PX).all()
    with_camera = {"poses": poses, "focal_px": 700.0, "trans": np.array([[0.0, 0.0, 4.0]])}
    dumps.save_npz(tmp_path / "b.npz", with_camera)
    assert AmassImporter(tmp_path, options()).read("b", SIZE_PX).camera.focal_px == (700, 700)


def test_smplifyx_results_with_six_components_a_hand(tmp_path: Path, caplog):
    rng = np.random.default_rng(4)
    basis = HandBasis(rng.normal(scale=0.1, size=(2, 45)), rng.normal(scale=0.1, size=(2, 45, 45)))
    hands, shift = rng.normal(size=(2, 6)), np.array([0.2, 0.3, 30.0])
    params = dumps.some_smplx(1)
    folder = tmp_path / "out" / "results" / "photo.one"
    folder.mkdir(parents=True)
    far = smplifyx_result(params, hands, shift + [0, 0, 9])
    dump(folder / "000.pkl", far)
    dump(folder / "001.pkl", smplifyx_result(params, hands, shift))
    components = basis.components
    assert components is not None
    full = [basis.mean[side] + hands[side] @ components[side, :6] for side in (0, 1)]
    want = params.replace(left_hand_pose=full[0], right_hand_pose=full[1])
    joints = dumps.forward(dumps.free_body(), want)[1] + shift
    for path in (tmp_path / "out", tmp_path / "out" / "results", folder):
        source = SmplifyXImporter(path, options(hands=basis))
        found = source.read("photo.one", SIZE_PX)
        assert found.people == 2
        np.testing.assert_allclose(see(None, found), project(joints, 5000.0), atol=0.1)
    (tmp_path / "out" / "conf.yaml").write_text("dataset: x\nfocal_length: 1200.0\n")
    found = SmplifyXImporter(tmp_path / "out", options(hands=basis)).read("photo.one", SIZE_PX)
    assert found.camera.focal_px == (1200, 1200)
    with pytest.raises(OmfaError, match=r"6 numbers .* principal components, which need --smplx-m"):
        SmplifyXImporter(folder, options()).read("photo.one", SIZE_PX)
    dump(folder / "001.pkl", far | {"body_pose": np.zeros((1, 32)), "camera_translation": shift})
    with pytest.raises(OmfaError, match="only VPoser can decode"):
        SmplifyXImporter(folder, options(hands=basis)).read("photo.one", SIZE_PX)
    # relaxed hands need no components
    relaxed = smplifyx_result(params, np.zeros((2, 6)), shift)
    dump(tmp_path / "b.pkl", relaxed)
    assert SmplifyXImporter(tmp_path / "b.pkl", options()).read("b", SIZE_PX).people == 1


def test_the_wrong_tool_is_named(tmp_path: Path):
    result = smplifyx_result(dumps.some_smplx(0), np.zeros((2, 6)), np.array([0, 0, 3.0]))
    dump(tmp_path / "a.pkl", result)
    with pytest.raises(OmfaError, match="--from smplifyx"):
        ChampImporter(tmp_path / "a.pkl", options()).read("a", SIZE_PX)
    dumps.save_npz(tmp_path / "b.npz", {"poses": np.zeros((1, 165)), "trans": np.zeros((1, 3))})
    with pytest.raises(OmfaError, match="--from amass"):
        ChampImporter(tmp_path / "b.npz", options()).read("b", SIZE_PX)
