"""Bodies fitted to keypoints of known bodies, and the parts that the fit is made of."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omfa_jax.body.body_file import load_body, read_npz, save_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params, make_params_from_pose
from omfa_jax.body.fit import keypoint_projection, pose_prior
from omfa_jax.body.fit.fit_folder import REPORT_FILE, fit_folder
from omfa_jax.body.fit.fit_quality import find_confident_keypoints, judge_fit
from omfa_jax.body.fit.fitter import Fitter
from omfa_jax.body.fit.jax_rotations import exp_so3
from omfa_jax.body.fit.keypoints import (
    BODY_18,
    BODY_25,
    DEEPFASHION,
    LANDMARKS,
    find_landmark_vertices,
)
from omfa_jax.body.fit.skeleton import compose_rotations, compute_joint_positions, load_skeleton
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.core.errors import OmfaError

BATCH = 8
SIZE_PX = (768, 1024)
MODEL = load_body_model()


@pytest.fixture(scope="module")
def bench():
    script = Path(__file__).parents[1] / "bench" / "body_fit_accuracy.py"
    spec = importlib.util.spec_from_file_location("bench_fit", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fitter():
    return Fitter(MODEL, BODY_25)


def posed_joints(skeleton, pose, betas):
    """Joints of axis-angle rotations (smplx order), metres in the model's axes."""
    rest = (skeleton.rest + skeleton.dirs @ betas)[: len(pose)]
    return compute_joint_positions(compose_rotations(exp_so3(pose)), rest) + rest[0]


def test_joints_equal_the_numpy_forward():
    rng = np.random.default_rng(0)
    pose, betas = rng.normal(size=(55, 3)) * 0.6, rng.normal(size=10)
    _, joints = forward(MODEL, make_params_from_pose(pose, betas=betas))
    for count in (22, 55):
        skeleton = load_skeleton(MODEL, count)
        found = jax.jit(posed_joints)(
            skeleton, jnp.asarray(pose[:count], jnp.float32), jnp.asarray(betas)
        )
        np.testing.assert_allclose(found, joints[:count], atol=1e-5)


def test_derivatives_at_the_rest_pose_are_numbers():
    skeleton = load_skeleton(MODEL, 55)
    posed = jax.jit(jax.jacfwd(lambda pose: posed_joints(skeleton, pose, jnp.zeros(10))))
    by_pose = posed(jnp.zeros((55, 3)))
    assert jnp.isfinite(by_pose).all()
    # an arm that turns about z at the shoulder moves the wrist by its length
    shoulder, wrist = JOINT_INDEX["left_shoulder"], JOINT_INDEX["left_wrist"]
    arm = MODEL.joint_template[wrist] - MODEL.joint_template[shoulder]
    np.testing.assert_allclose(by_pose[wrist, :, shoulder, 2], [-arm[1], arm[0], 0], atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_geometric_jacobian_equals_differentiation(spread):
    rng = np.random.default_rng(1)
    skeleton, ties = load_skeleton(MODEL), jnp.asarray(BODY_25.make_matrix(), jnp.float32)
    x = (
        jnp.asarray(rng.normal(size=79) * spread, jnp.float32)
        .at[keypoint_projection.DEPTH]
        .set(1.2)
    )
    facing = jnp.eye(3)

    def seen(x):
        return keypoint_projection.project_keypoints(
            keypoint_projection.unpack_body(x, facing), skeleton, ties
        )

    found, by_x = jax.jit(keypoint_projection.linearize_keypoints)(x, facing, skeleton, ties)
    np.testing.assert_allclose(found, jax.jit(seen)(x), atol=1e-6)
    np.testing.assert_allclose(by_x, jax.jit(jax.jacfwd(seen))(x), atol=2e-6)


def test_keypoints_are_where_their_names_say():
    vertices, joints = forward(MODEL, make_neutral_params())
    marks = find_landmark_vertices(MODEL)
    points = np.concatenate([joints[:22], vertices[[marks[name] for name in LANDMARKS]]])
    for known in (BODY_25, BODY_18, DEEPFASHION):
        at = dict(zip(known.names, known.make_matrix() @ points, strict=True))
        for name in known.names:
            if name.startswith("left_") and known.ties[name]:
                mirrored = at[name.replace("left", "right")] * (-1, 1, 1)
                assert at[name][0] > 0.02
                np.testing.assert_allclose(at[name], mirrored, atol=5e-3)
        assert at["nose"][2] == max(place[2] for name, place in at.items() if "toe" not in name)
        assert at["nose"][1] > at["right_shoulder"][1] > at["right_hip"][1] > at["right_knee"][1]
    deep = dict(zip(DEEPFASHION.names, DEEPFASHION.make_matrix() @ points, strict=True))
    assert deep["crown"][1] == pytest.approx(vertices[:, 1].max(), abs=0.01)
    assert 0.03 < deep["nose"][1] - deep["chin"][1] < 0.1
    assert not deep["left_armpit"].any()


def test_relaxed_stance_is_a_mirror_image_and_hangs_its_arms():
    pose = np.zeros((55, 3))
    pose[1:22] = pose_prior.RELAXED
    _, joints = forward(MODEL, make_params_from_pose(pose))
    for name in ("elbow", "wrist", "knee", "ankle"):
        left, right = joints[JOINT_INDEX[f"left_{name}"]], joints[JOINT_INDEX[f"right_{name}"]]
        np.testing.assert_allclose(left * (-1, 1, 1), right, atol=2e-3)
    wrist, shoulder = joints[JOINT_INDEX["left_wrist"]], joints[JOINT_INDEX["left_shoulder"]]
    assert wrist[1] < shoulder[1] - 0.45 and wrist[2] > joints[JOINT_INDEX["left_elbow"], 2]
    # an elbow bends to the front and not to the back, a knee the other way
    bent = jnp.zeros((21, 3)).at[pose_prior.POSED_JOINTS.index("left_elbow"), 1].set(1.0)
    assert (
        pose_prior.compute_limit_excess(bent).max() > 0.5
        and pose_prior.compute_limit_excess(-bent).max() == 0
    )
    bent = jnp.zeros((21, 3)).at[pose_prior.POSED_JOINTS.index("right_knee"), 0].set(1.0)
    assert (
        pose_prior.compute_limit_excess(-bent).max() > 0.5
        and pose_prior.compute_limit_excess(bent).max() == 0
    )


@pytest.mark.parametrize("kind", ["half", "whole"])
def test_known_bodies_are_found(fitter, bench, kind):
    truth = bench.make(MODEL, BODY_25, BATCH, kind, noise=0.0, seed=7)
    found = bench.measure(fitter, MODEL, truth, BATCH)
    assert found["accepted"].all()
    assert found["fit"].mean() <= 0.015
    assert found["neutral"].mean() >= 10 * found["fit"].mean()
    assert np.median(found["mm"]) < 80


def test_fit_is_the_same_in_another_batch_and_bad_points_do_little(fitter, bench):
    truth = bench.make(MODEL, BODY_25, BATCH, "half", noise=0.0, seed=7)
    sizes = [SIZE_PX] * BATCH
    alone = np.zeros_like(truth.rows)
    alone[3] = truth.rows[3]
    first, second = fitter(truth.rows, sizes)[3], fitter(alone, sizes)[3]
    np.testing.assert_allclose(first.params.body_pose, second.params.body_pose, atol=1e-3)
    wild = truth.rows.copy()
    wrists = [BODY_25.names.index(name) for name in ("left_wrist", "right_wrist")]
    wild[:, wrists, :2] = (40, 40)
    found = fitter(wild, sizes)
    for fit, pixels in zip(found, truth.pixels, strict=True):
        _, joints = forward(MODEL, fit.params)
        places, _ = fit.camera.project(joints[[12, 16, 17]])
        assert np.linalg.norm(places - pixels[[12, 16, 17]], axis=1).max() < 0.03 * 1024


def test_photos_of_every_aspect_are_fitted(fitter, bench):
    """9:16, square, and 16:9 with a large and with a small person."""
    truth = bench.make(MODEL, BODY_25, BATCH, "whole", noise=0.0, seed=7)
    frames = [
        ((576, 1024), 1.0, (-96, 0)),
        ((768, 768), 0.75, (96, 0)),
        ((1600, 900), 0.8, (500, 40)),
        ((1600, 900), 0.3, (1000, 400)),
    ] * (BATCH // 4)
    rows = truth.rows.copy()
    for place, (_, scale, shift) in enumerate(frames):
        rows[place, :, :2] = rows[place, :, :2] * scale + shift
    found = fitter(rows, [size for size, _, _ in frames])
    for fit, pixels, (size, scale, shift) in zip(found, truth.pixels, frames, strict=True):
        assert fit.report.accepted, fit.report.reason
        assert (fit.camera.width_px, fit.camera.height_px) == size
        _, joints = forward(MODEL, fit.params)
        places, _ = fit.camera.project(joints[[0, 12, 16, 17]])
        want = pixels[[0, 12, 16, 17]] * scale + shift
        assert np.linalg.norm(places - want, axis=1).max() < 0.03 * 1024 * scale


def test_what_is_trusted_and_rejected():
    rows = np.tile([300.0, 500.0, 0.9], (25, 1))
    at = BODY_25.names.index
    rows[at("nose")] = (0, 0, 0)
    rows[at("left_eye")] = (300, 1023, 0.9)
    rows[at("right_eye")] = (300, 400, 0.1)
    rows[at("left_ear")] = (np.nan, 400, 0.9)
    rows[at("right_ankle")] = (300, 1500, 0.9)
    rows[at("right_knee"), 2] = 0.4
    seen = find_confident_keypoints(BODY_25, rows, np.array(SIZE_PX, float))
    gone = {name for name, there in zip(BODY_25.names, seen, strict=True) if not there}
    faces = {"nose", "left_eye", "right_eye", "left_ear"}
    assert gone == faces | {"right_ankle", "right_knee"}

    def verdict(seen=seen, errors=5.0, beyond=0.0, beta=0.0):
        return judge_fit(
            BODY_25,
            errors_px=np.full(25, errors),
            seen=seen,
            size_px=SIZE_PX,
            body_height_px=1200.0,
            beyond_limits_rad=np.full((21, 3), beyond),
            betas=np.full(10, beta),
            facing=np.eye(3),
        )

    assert verdict().accepted and verdict().reason == ""
    assert verdict().median_of_image == pytest.approx(5 / 1024)
    few = seen & (np.arange(25) < 5)
    no_hips = seen & ~np.isin(np.arange(25), [at("mid_hip"), at("left_hip"), at("right_hip")])
    for report, word in (
        (verdict(seen=few), "4 confident keypoints"),
        (verdict(seen=no_hips), "torso not visible"),
        (verdict(errors=40.0), "median error 3.9%"),
        (verdict(beyond=0.5), "beyond its limit"),
        (verdict(beta=5.0), "implausible shape"),
    ):
        assert not report.accepted and word in report.reason


def test_folder_resumes_and_lists_the_rejected(fitter, bench, tmp_path, caplog):
    truth = bench.make(MODEL, BODY_25, 4, "half", noise=0.0, seed=7)
    asked = []

    def reader(index):
        def read():
            asked.append(index)
            if index == 3:
                raise OmfaError("keypoints are damaged")
            rows = truth.rows[index].copy()
            if index == 2:
                rows[:, 2] = 0
            return rows, SIZE_PX

        return read

    photos = [(f"p{index}", reader(index)) for index in range(4)]
    params, camera = truth.params[0], truth.cameras[0]
    save_body(tmp_path / "smplx" / "p0.npz", params, camera, source="exact")
    report = fit_folder(fitter, photos, tmp_path, batch_size=BATCH)
    assert (report.fitted, report.kept) == (1, 1) and asked == [1, 2, 3]
    assert [name for name, _ in report.rejected] == ["p2", "p3"]
    assert "0 confident keypoints" in str(report) and "damaged" in str(report)
    fitted = tmp_path / "smplx" / "p1.npz"
    assert str(read_npz(fitted, "body")["source"]) == "keypoints"
    _, camera = load_body(fitted)
    assert (camera.width_px, camera.height_px) == SIZE_PX and camera.focal_px[0] == 2560
    before = fitted.read_bytes(), (tmp_path / REPORT_FILE).read_bytes()
    again = fit_folder(fitter, photos, tmp_path, batch_size=BATCH)
    assert (again.fitted, again.kept, again.rejected) == (0, 2, report.rejected)
    assert asked == [1, 2, 3] and not caplog.messages
    assert fit_folder(fitter, photos, tmp_path, batch_size=BATCH, person_index=1).kept == 2
    assert caplog.messages == [
        "3 photos (p1, p2, p3) keep an earlier result, for the largest person; --overwrite fits"
        " them again, for --person-index 1"
    ]
    fitted.unlink()
    assert fit_folder(fitter, photos, tmp_path, batch_size=BATCH).fitted == 1
    assert (fitted.read_bytes(), (tmp_path / REPORT_FILE).read_bytes()) == before
    (tmp_path / REPORT_FILE).write_text("{")
    with pytest.raises(OmfaError, match="damaged"):
        fit_folder(fitter, photos, tmp_path, batch_size=BATCH)


def test_wrong_input():
    with pytest.raises(OmfaError, match="width, height"):
        Fitter(MODEL, BODY_25)(np.zeros((2, 18, 3)), [SIZE_PX] * 2)
