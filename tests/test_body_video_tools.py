"""Bodies of EasyMocap, ROMP, BEV, WHAM, GVHMR and TRAM, on the pixels of those tools."""

import json
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
    poses_of,
    project,
    see,
    write_calibration,
)
from PIL import Image

from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.importers.easymocap import EasyMocapImporter
from omfa_jax.body.importers.romp import RompImporter
from omfa_jax.body.importers.video_bodies import GvhmrImporter, TramImporter, WhamImporter
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smpl_model import forward_smpl
from omfa_jax.body.smpl_to_smplx import MEAN_REST_PELVIS_M
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError


@pytest.fixture(scope="module")
def smpl():
    return dumps.fake_smpl()[0]


@pytest.mark.parametrize("size", [87, 72])
def test_easymocap_turns_about_the_origin(tmp_path: Path, size: int):
    turn = axis_angle_to_matrix(np.array([[0.1, 0.3, -0.1]]))[0]
    away = np.array([0.1, -0.2, 5.0])
    matrix = write_calibration(tmp_path, turn, away)
    params = dumps.some_smplx(5).replace(global_orient=np.zeros(3), transl=np.zeros(3))
    hands = np.zeros((2, 45))
    params = params.replace(left_hand_pose=hands[0], right_hand_pose=hands[1])
    orient, shift = np.array([np.pi - 0.2, 0.1, 0.2]), np.array([0.3, 0.2, 0.1])
    inner = axis_angle_to_matrix(orient[None])[0]
    poses = np.zeros(size)
    poses[3:66] = params.body_pose.ravel()
    if size == 87:
        poses[78:81] = params.jaw_pose
        rest = dumps.forward(dumps.free_body(), params)[1]
    else:
        rest = MEAN_REST_PELVIS_M[None]
    person = {"id": 0, "Rh": [orient.tolist()], "Th": [shift.tolist()], "poses": [poses.tolist()]}
    if size == 87:
        person["shapes"] = [params.betas.tolist()]
        person["expression"] = [params.expression.tolist()]
    (tmp_path / "smpl").mkdir()
    (tmp_path / "smpl" / "000000.json").write_text(json.dumps([person]))
    found = EasyMocapImporter(tmp_path, options()).read("000000", SIZE_PX)
    seen = (rest @ inner.T + shift) @ turn.T + away
    want = seen[:, :2] / seen[:, 2:] * np.diag(matrix)[:2] + matrix[:2, 2]
    np.testing.assert_allclose(see(None, found)[: len(want)], want, atol=TIGHT_PX)
    (tmp_path / "intri.yml").unlink()
    with pytest.raises(OmfaError, match=r"no camera: expected EasyMocap's intri\.yml"):
        EasyMocapImporter(tmp_path / "smpl", options())


def test_romp_and_bev_lie_on_the_padded_square(tmp_path: Path, smpl):
    bodies, cams = (
        [dumps.some_smpl(3), dumps.some_smpl(4)],
        np.array([[0.3, 0.1, 0.2], [0.7, -0.1, 0.05]]),
    )
    side, pad = 640, np.array([80, 0])
    joints = np.stack([forward_smpl(smpl, body)[1] for body in bodies])
    results = {
        "smpl_thetas": np.stack([poses_of(body).ravel() for body in bodies]),
        "smpl_betas": np.zeros((2, 10)),
        "cam": cams,
        "cam_trans": np.zeros((2, 3)),
        "joints": joints,
    }
    dumps.save_npz(tmp_path / "a.npz", {"results": results})
    found = RompImporter(tmp_path, dumps.reading()).read("a", SIZE_PX)
    assert found.people == 2
    want = (cams[1, 0] * joints[1, :, :2] + cams[1, 1:] + 1) * side / 2 - pad
    np.testing.assert_allclose(see(smpl, found)[:BODY], want[:BODY], atol=1.5)
    # BEV: the middle of the hips is at cam_trans
    shift = np.array([0.2, -0.1, 3.0])
    root = joints[:, [1, 2]].mean(1, keepdims=True)
    bev = results | {
        "smpl_betas": np.zeros((2, 11)),
        "cam_trans": np.stack([shift + 9, shift]),
        "joints": joints - root,
    }
    dumps.save_npz(tmp_path / "b.npz", {"results": bev})
    found = RompImporter(tmp_path, dumps.reading()).read("b", SIZE_PX)
    want = project(joints[1] - root[1] + shift, 443.4 / 512 * side)
    for model in (smpl, None):
        np.testing.assert_allclose(see(model, found)[:BODY], want[:BODY], atol=TIGHT_PX)
    dumps.save_npz(tmp_path / "video_results.npz", {"results": {"c.png": results}})
    source = RompImporter(tmp_path / "video_results.npz", dumps.reading())
    assert list(source.frames) == ["c"] and source.read("c", SIZE_PX).people == 2
    assert list(RompImporter(tmp_path, dumps.reading()).frames) == ["a", "b"]


def test_wham_tram_and_gvhmr_frames(tmp_path: Path, smpl):
    bodies = [dumps.some_smpl(seed) for seed in range(3)]
    shifts = np.array([[0.1, 0.2, 4.0], [0.0, 0.1, 5.0], [-0.1, 0.2, 6.0]])
    poses = np.stack([poses_of(body) for body in bodies])
    joints = [forward_smpl(smpl, b)[1] + t for b, t in zip(bodies, shifts, strict=True)]
    person = {"pose": poses.reshape(3, 72), "trans": shifts, "betas": np.zeros((3, 10))}
    farther = person | {"trans": shifts + [0, 0, 5], "frame_ids": np.arange(3)}
    wham = {0: farther, 1: person | {"frame_ids": np.arange(1, 4)}}
    dump(tmp_path / "wham_output.pkl", wham)
    source = WhamImporter(tmp_path / "wham_output.pkl", dumps.reading())
    assert source.numbered and sorted(source.frames) == ["0", "1", "2", "3"]
    found = source.read("2", SIZE_PX)
    assert found.people == 2
    want = project(joints[1], np.hypot(*SIZE_PX))
    np.testing.assert_allclose(see(smpl, found)[:BODY], want[:BODY], atol=TIGHT_PX)

    (tmp_path / "seq" / "hps").mkdir(parents=True)
    camera = {"img_focal": 800.0, "img_center": np.array([240.0, 320.0])}
    dumps.save_dict(tmp_path / "seq" / "camera.npy", camera)
    rotations = axis_angle_to_matrix(poses.reshape(-1, 3)).reshape(3, 24, 3, 3)
    track = {"pred_rotmat": rotations, "pred_shape": np.zeros((3, 10)), "frame": np.arange(3)}
    track["pred_trans"] = shifts[:, None]
    dumps.save_dict(tmp_path / "seq" / "hps" / "hps_track_0.npy", track)
    found = TramImporter(tmp_path / "seq", dumps.reading()).read("1", SIZE_PX)
    want = project(joints[1], 800.0)
    np.testing.assert_allclose(see(smpl, found)[:BODY], want[:BODY], atol=TIGHT_PX)

    params = [dumps.some_smplx(seed).replace(transl=t) for seed, t in enumerate(shifts)]
    rest = make_neutral_params()
    names = ("left_hand_pose", "right_hand_pose", "jaw_pose", "expression")
    params = [p.replace(**{name: getattr(rest, name) for name in names}) for p in params]
    incam = {
        name: np.stack([getattr(p, name).ravel() for p in params])
        for name in ("global_orient", "body_pose", "betas", "transl")
    }
    matrix = np.array([[800.0, 0, 240], [0, 800, 320], [0, 0, 1]])
    saved = {"smpl_params_incam": incam, "K_fullimg": np.repeat(matrix[None], 3, 0)}
    dumps.save_npz(tmp_path / "photo.npz", saved)
    source = GvhmrImporter(tmp_path / "photo.npz", options(frame=2))
    assert list(source.frames) == ["photo"] and not source.numbered
    found = source.read("photo", (240, 320))
    want = project(dumps.forward(dumps.free_body(), params[2])[1], 800.0)
    np.testing.assert_allclose(2 * see(None, found), want, atol=2 * TIGHT_PX)
    (tmp_path / "hmr4d_results.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(OmfaError, match=r"saved by torch\.save; save numpy arrays instead"):
        GvhmrImporter(tmp_path / "hmr4d_results.pt", options())
    with pytest.raises(OmfaError, match="--frame: expected 0 to 2, got 7"):
        GvhmrImporter(tmp_path / "photo.npz", options(frame=7))


def test_frames_of_a_video_go_to_photos_by_number(tmp_path: Path, capsys, caplog):
    raw = tmp_path / "raw" / "train" / "image"
    raw.mkdir(parents=True)
    for name in ("frame_000001", "frame_000002", "frame_000009"):
        Image.new("RGB", SIZE_PX).save(raw / f"{name}.jpg")
    poses = np.zeros((3, 72))
    poses[:, 0] = np.pi
    person = {"pose": poses, "trans": np.array([[0, 0, 4.0 + i] for i in range(3)])}
    dump(tmp_path / "wham.pkl", person | {"betas": np.zeros((1, 10))})
    flags = ["data", "bodies", "--from=wham", f"--in={tmp_path / 'wham.pkl'}", "--allow-pickle"]
    caplog.set_level("INFO")
    assert main([*flags, f"--raw={tmp_path / 'raw'}"]) == 0
    assert "2 bodies imported" in caplog.text and "1 photos have no body" in caplog.text
    depths = [load_body(raw.parent / "smplx" / f"frame_00000{n}.npz")[0].transl[2] for n in (1, 2)]
    np.testing.assert_allclose(np.diff(depths), 1, atol=1e-5)
    Image.new("RGB", SIZE_PX).save(raw / "other_2.jpg")
    assert main([*flags, f"--raw={tmp_path / 'raw'}"]) == 2
    assert "two photos end in the number of frame 2" in capsys.readouterr().err
