"""Named target poses: what their words mean, measured on the posed body."""

import json

import numpy as np
import pytest

from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params, make_params_from_pose
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_library import load_pose_library, make_studio_camera, parse_pose, place_pose
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb

MODEL = load_body_model()


def joints(pose):
    posed = forward(MODEL, make_params_from_pose(parse_pose(pose)))[1]
    return {name: posed[index] for name, index in JOINT_INDEX.items()}


def bone(at, start, end):
    vector = at[end] - at[start]
    return vector / np.linalg.norm(vector)


def angle_deg(a, b):
    b = np.array(b) / np.linalg.norm(b)
    return np.rad2deg(np.arccos(np.clip(a @ b, -1, 1)))


@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_arms_and_thighs_point_where_they_are_told(side, sign):
    arm = {"upper": [0.8, 0.5, 0.3], "fore": [-0.2, 0.9, 0.4]}
    at = joints({f"{side}_arm": arm, f"{side}_leg": {"thigh": [0.3, -0.4, 0.8], "knee_deg": 70}})
    mirror = np.array([sign, 1, 1])
    # collar bones lift a raised arm a little
    assert angle_deg(bone(at, f"{side}_shoulder", f"{side}_elbow"), arm["upper"] * mirror) < 8
    assert angle_deg(bone(at, f"{side}_elbow", f"{side}_wrist"), arm["fore"] * mirror) < 8
    assert angle_deg(bone(at, f"{side}_hip", f"{side}_knee"), [0.3 * sign, -0.4, 0.8]) < 8
    shin = bone(at, f"{side}_knee", f"{side}_ankle")
    assert angle_deg(bone(at, f"{side}_hip", f"{side}_knee"), shin) == pytest.approx(70, abs=6)
    assert at[f"{side}_ankle"][2] < at[f"{side}_knee"][2]


def test_turns_leans_and_looks_go_to_the_persons_own_left():
    rest = joints({})
    turned = joints({"turn_deg": 90})
    assert turned["left_shoulder"][2] < -0.1 and turned["right_shoulder"][2] > 0.1
    leaning = joints({"lean_deg": [0, 20]})
    assert leaning["neck"][0] > rest["neck"][0] + 0.1
    bowing = joints({"lean_deg": [20, 0]})
    assert bowing["neck"][2] > rest["neck"][2] + 0.1
    looking = joints({"head_deg": [0, 45, 0]})
    eyes = looking["left_eye"] + looking["right_eye"] - 2 * looking["head"]
    assert eyes[0] > 0.05
    nodding = joints({"head_deg": [30, 0, 0]})
    assert nodding["left_eye"][1] < rest["left_eye"][1] - 0.01


def test_the_library_shipped_mirrors_itself_and_fits_a_picture():
    poses = load_pose_library()
    assert len(poses) >= 36
    mirror = np.array([1, -1, -1])
    left, right = poses["left_hand_on_hip"], poses["right_hand_on_hip"]
    for joint in ("shoulder", "elbow", "collar"):
        a, b = left[JOINT_INDEX[f"left_{joint}"]], right[JOINT_INDEX[f"right_{joint}"]]
        np.testing.assert_allclose(a, b * mirror, atol=1e-12)
    bodies = [make_params_from_pose(pose) for pose in poses.values()]
    camera = make_studio_camera(MODEL, bodies, 300, 400)
    for body in bodies:
        pixels, _ = camera.project(forward(MODEL, body)[0])
        assert (pixels >= 0).all() and (pixels <= (300, 400)).all()


def test_a_pose_is_taken_where_the_person_stands():
    """Seen from aside and by a camera whose world is y down: they face it all the same."""
    person = make_neutral_params().replace(betas=np.linspace(-1, 1, 10), transl=[0.3, 0.1, -0.2])
    pose = parse_pose({"left_arm": {"upper": [1, 0.2, 0], "fore": [0.3, 1, 0]}})
    for up in ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0)):
        camera = make_look_at_camera(
            (3, 0, 1), (0, 0, 0), focal_px=400.0, width_px=300, height_px=400, up=up
        )
        placed = place_pose(pose, person, camera)
        before, after = forward(MODEL, person)[1], forward(MODEL, placed)[1]
        np.testing.assert_allclose(after[0], before[0], atol=1e-5)
        np.testing.assert_array_equal(placed.betas, person.betas)
        seen = camera.to_camera(after)
        hips = seen[JOINT_INDEX["left_hip"]] - seen[JOINT_INDEX["right_hip"]]
        assert hips[0] > 0.05 and abs(hips[2]) < 0.03
        assert seen[JOINT_INDEX["left_wrist"], 1] < seen[JOINT_INDEX["left_shoulder"], 1] - 0.1


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ({"left_arms": {}}, "left_arms.*did you mean 'left_arm'"),
        ({"left_arm": {"upper": [0, 0, 0]}}, "left_arm.upper: expected a direction"),
        ({"left_arm": {"uper": [0, 0, 1]}}, "left_arm: expected upper and fore"),
        ({"left_arm": "right_leg"}, "expected an object or 'right_arm'"),
        ({"left_arm": "right_arm", "right_arm": "left_arm"}, "expected an object"),
        ({"turn_deg": "far"}, "turn_deg: expected 1 number"),
        ({"head_deg": [1, 2]}, "head_deg: expected 3 numbers"),
        ({"joints": {"left_elbo": [0, 0, 0]}}, "left_elbo.*did you mean 'left_elbow'"),
        (7, "expected an object"),
    ],
)
def test_a_library_with_a_mistake_names_pose_and_key(tmp_path, pose, message):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"mine": pose}))
    with pytest.raises(OmfaError, match=f"mine.json: mine: .*{message}"):
        load_pose_library(path)


def test_the_command_draws_poses_and_turntables(tmp_path, capsys):
    def poses(*flags):
        return main(["data", "poses", *flags])

    size = ("--size", "60x80", "--backend", "zbuffer")
    assert poses("--poses", "arms_up,wave_left", "--out", str(tmp_path / "a"), *size) == 0
    maps = {path.stem: read_rgb(path) for path in (tmp_path / "a" / "pose").glob("*.png")}
    assert set(maps) == {"arms_up", "wave_left"} and maps["arms_up"].shape == (80, 60, 3)
    body = str(tmp_path / "a" / "smplx" / "wave_left.npz")
    assert poses("--turntable", "4", "--body", body, "--out", str(tmp_path / "b"), *size) == 0
    views = sorted((tmp_path / "b" / "smplx").glob("*.npz"))
    assert [path.stem for path in views] == [f"view_{i:03d}" for i in range(4)]
    (_, one), (_, other) = load_body(views[2]), load_body(body)
    np.testing.assert_array_equal(one.translation, other.translation)
    assert poses("--poses", "wav_left", "--out", str(tmp_path / "c"), *size) == 2
    assert "did you mean 'wave_left'" in capsys.readouterr().err
    assert poses("--poses", "back", *size) == 2
    assert "--out" in capsys.readouterr().err
