"""A person's photo alone gives face, pose and body; poses by name and of another photo."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_viton as tiny
from wide_photos import TINY, draw, write_raw

import omfa_jax as omfa
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.landmarks import PersonLandmarks
from omfa_jax.body.landmarks.landmark_json import make_document
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb, write_image
from omfa_jax.model_loading import read_settings
from omfa_jax.sampling import photo_people
from omfa_jax.sampling.pairs_sampling import PairInputs, PhotoFolder, Progress
from omfa_jax.sampling.photo_files import PersonFiles
from omfa_jax.sampling.photo_people import make_photo_rows, warn_of_worn_garment
from omfa_jax.sampling.pose_sources import PosedBodies, get_body_model
from omfa_jax.sampling.posed_people import (
    copy_pose,
    find_pose_kind,
    has_map_background,
    read_person_body,
)

SIZE_PX = (400, 300)


def make_landmarks(confidence=0.9, part=slice(0, 33)):
    points = np.linspace((100, 40), (200, 360), 33)
    # eyes and ears beside each other, as a face has them
    points[:11] = (150, 60) + np.array(
        [(0, 5), *[(x, 0) for x in (4, 6, 8, -4, -6, -8, 14, -14, 3, -3)]]
    )
    sure = np.zeros(33)
    sure[part] = confidence
    return PersonLandmarks(
        points, np.zeros((33, 3)), sure, sure, 0.98, (100, 40, 200, 360), np.zeros(SIZE_PX)
    )


def make_own(beta=1.5):
    height, width = SIZE_PX
    camera = make_look_at_camera(
        (0, 0, 5), (0, 0, 0), focal_px=700, width_px=width, height_px=height
    )
    params = make_neutral_params().replace(betas=np.full(10, beta, np.float32))
    return PosedBodies([params], camera, get_body_model(None), "keypoints", "photo")


@pytest.fixture
def found(monkeypatch):
    """Let the photo show a person whose body is `make_own`."""
    shown = {"person": make_landmarks()}
    monkeypatch.setattr(photo_people, "find_person", lambda photo, name: shown["person"])
    monkeypatch.setattr("omfa_jax.sampling.person_inputs.fit_photo_body", lambda *_: make_own())
    return shown


def load(**flags):
    slots = omfa.SlotFitter(read_settings(TINY))
    return omfa.load_person(slots, np.full((*SIZE_PX, 3), 200, np.uint8), **flags)


def test_a_photo_alone_gives_face_pose_and_body(found, caplog):
    caplog.set_level("INFO")
    me = load()
    assert me.face is not None and me.pose is not None and me.body.source == "keypoints"
    assert "no keypoints beside the photo: found in the photo (score 0.98)" in caplog.text
    # nothing of the pose is asked for, and the face is still found
    null = load(null_pose=True)
    assert null.pose is None and null.body is None and null.face is not None


def test_a_list_says_which_bodies_were_fitted(found, tmp_path, caplog):
    write_image(tmp_path / "me.png", np.full((*SIZE_PX, 3), 200, np.uint8))
    settings = read_settings(TINY)
    row = next(task for task in settings.tasks if task.name == "try_off")
    inputs = PairInputs(row, PhotoFolder(tmp_path, "--persons"), None)
    read = inputs.load(omfa.SlotFitter(settings), "me.png", "")[2]
    assert read == {"person": str(tmp_path / "me.png"), "body": "fitted to the photo"}
    caplog.set_level("INFO")
    progress = Progress(3, [])
    progress.fitted = 2
    progress.report_end(1)
    assert "2 of them had no body beside the photo: fitted here" in caplog.text


def test_a_landmarks_file_is_fitted_like_the_photo_alone(tmp_path, monkeypatch, caplog):
    person, photo = make_landmarks(), np.full((*SIZE_PX, 3), 200, np.uint8)
    person.world_m[:] = np.linspace(-0.5, 0.5, 33)[:, None]
    for folder in ("image", "openpose_json"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "image/me.png", photo)
    path = tmp_path / "openpose_json/me_keypoints.json"
    # written by another program
    path.write_text(json.dumps(make_document([person], "me.png", (300, 400)), indent=1))
    given = []
    monkeypatch.setattr(
        "omfa_jax.body.landmarks.landmark_json.find_people",
        lambda _: [replace(person, mask=np.ones(SIZE_PX))],
    )

    def fit(found, *_):
        given.append(found)
        return make_own()

    monkeypatch.setattr(photo_people, "fit_photo_body", fit)
    monkeypatch.setattr(photo_people, "fit_body", None)
    slots = omfa.SlotFitter(read_settings(TINY))
    me = omfa.load_person(slots, tmp_path / "image/me.png")
    other = read_person_body(PersonFiles(pose=tmp_path / "image/me.png"), None)
    for body in (me.body, other):
        assert body is not None and body.fitted_to == "keypoints"
    assert len(given) == 2
    for one in given:
        assert one.mask.all()
        np.testing.assert_allclose(one.world_m, person.world_m, atol=6e-5)

    def refuse(*_):
        raise OmfaError("rejected: why")

    # as for other keypoints, the model then chooses
    monkeypatch.setattr(photo_people, "fit_photo_body", refuse)
    assert omfa.load_person(slots, tmp_path / "image/me.png").pose is None
    assert "no body from these keypoints: rejected: why" in caplog.text


def test_a_list_says_that_damaged_keypoints_were_not_used(found, tmp_path):
    for folder in ("image", "openpose_json"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "image/me.png", np.full((*SIZE_PX, 3), 200, np.uint8))
    (tmp_path / "openpose_json/me_keypoints.json").write_text("{")
    settings = read_settings(TINY)
    row = next(task for task in settings.tasks if task.name == "try_off")
    inputs = PairInputs(row, PhotoFolder(tmp_path / "image", "--persons"), None)
    read = inputs.load(omfa.SlotFitter(settings), "me.png", "")[2]
    assert read["body"] == "fitted to the photo"


def test_a_named_pose_keeps_shape_and_camera(found):
    me, posed = load(), load(pose="hands_on_hips")
    (own,), (body,) = me.body.bodies, posed.body.bodies
    np.testing.assert_array_equal(body.betas, own.betas)
    np.testing.assert_array_equal(posed.body.camera.translation, me.body.camera.translation)
    assert posed.body.camera.focal_px == me.body.camera.focal_px
    assert np.abs(body.body_pose - own.body_pose).max() > 0.3
    assert np.abs(posed.pose - me.pose).max() > 0.5
    with pytest.raises(OmfaError, match=r"unknown pose \(--pose; no file has this name\)"):
        load(pose="hands_on_hip")


def test_a_pose_is_copied_as_seen_from_the_camera():
    own = make_own()
    other_camera = make_look_at_camera(
        (5, 0, 0), (0, 0, 0), focal_px=500, width_px=200, height_px=300
    )
    other = make_neutral_params().replace(
        global_orient=np.array([0, 0.7, 0], np.float32),
        body_pose=np.full((21, 3), 0.1, np.float32),
    )
    body = copy_pose(other, other_camera, own.bodies[0], own.camera)
    np.testing.assert_array_equal(body.betas, own.bodies[0].betas)
    np.testing.assert_array_equal(body.body_pose, other.body_pose)
    seen = [
        camera.rotation @ axis_angle_to_matrix(params.global_orient[None].astype(np.float64))[0]
        for params, camera in ((body, own.camera), (other, other_camera))
    ]
    np.testing.assert_allclose(*seen, atol=1e-6)


def test_maps_and_photos_are_told_apart(tmp_path, caplog):
    caplog.set_level("INFO")
    grey = draw(ground=(128, 128, 128))
    wall = np.clip(np.random.default_rng(0).normal(128, 6, (90, 160, 1)), 0, 255).repeat(3, 2)
    assert has_map_background(draw()) and has_map_background(grey)
    assert not has_map_background(wall.astype(np.uint8))
    assert not has_map_background(draw(ground=(255, 255, 255)))
    write_image(tmp_path / "a.png", draw())
    write_image(tmp_path / "b.png", tiny.garment(1))
    assert find_pose_kind(tmp_path / "a.png") == "map"
    assert find_pose_kind("hands_on_hips") == "name" and find_pose_kind("x.npz") == "body"
    assert find_pose_kind(tmp_path / "b.png") == "photo"
    assert "b.png: taken for a photo" in caplog.text
    assert "a.png: taken for a pose map" in caplog.text


def test_what_is_not_seen_is_an_error_with_a_remedy(found, tmp_path, monkeypatch):
    found["person"] = make_landmarks(part=slice(11, 33))
    # said before the fit, which takes longer
    monkeypatch.setattr("omfa_jax.sampling.person_inputs.fit_photo_body", None)
    with pytest.raises(OmfaError, match=r"no face found for the photo: .* --face IMAGE"):
        load()
    monkeypatch.undo()
    head = make_landmarks(part=slice(0, 11))
    with pytest.raises(OmfaError, match=r"only a part of the body is seen .*torso.* or other"):
        photo_people.fit_photo_body(head, None, "me.jpg", "other")
    raw = write_raw(tmp_path)
    with pytest.raises(OmfaError, match=r"no person found .* or give --face"):
        omfa.load_person(omfa.SlotFitter(read_settings(TINY)), read_rgb(raw / "image/me.png"))


def test_a_face_from_behind_has_no_confidence():
    rows = make_photo_rows(make_landmarks())
    # nose, shoulders and hips
    assert (rows[[0, 2, 5, 9, 12], 2] > 0.8).all()
    assert make_photo_rows(make_landmarks(part=slice(5, 33)))[0, 2] == 0
    # the network is sure of a face that the head hides: its depth tells, in metres
    for depth_m, seen in ((-0.1, True), (0.0, True), (0.1, False)):
        person = make_landmarks()
        person.world_m[:7, 2] = depth_m
        assert (make_photo_rows(person)[0, 2] > 0) == seen
        assert (
            make_document([person], "a.jpg", (300, 400))["people"][0]["keypoints"][7][2] > 0
        ) == seen


@pytest.mark.parametrize(("sure", "warns"), [(0.75, True), (0.45, False)])
def test_a_garment_that_is_worn_is_said(monkeypatch, caplog, sure, warns):
    monkeypatch.setattr(photo_people, "find_people", lambda photo: [make_landmarks(sure)])
    warn_of_worn_garment(draw(), "shirt.jpg")
    assert ("shirt.jpg shows a person (score 0.98)" in caplog.text) == warns
