"""`omfa sample` takes poses from beside the photo and from keypoints, and asks for maps' style."""

import json
import shutil

import numpy as np
import pytest
import tiny_viton as tiny
from wide_photos import (
    BOX,
    HEIGHT_PX,
    TINY,
    WIDTH_PX,
    find_red,
    install,
    sample,
    write_body,
    write_map,
    write_raw,
)

import omfa_jax as omfa
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_maps import SETTINGS_FILE
from omfa_jax.core.images import from_signed, read_rgb
from omfa_jax.model_loading import read_settings
from omfa_jax.sampling.pose_sources import get_fitter


@pytest.fixture
def raw(tmp_path, monkeypatch):
    install(monkeypatch)
    return write_raw(tmp_path)


@pytest.mark.parametrize("task", ["try_on", "try_off", "transfer"])
@pytest.mark.parametrize("explicit", [True, False])
def test_a_map_of_another_style_is_refused_before_anything_is_read(
    raw, tmp_path, capsys, task, explicit
):
    pose = write_map(raw, "normals")
    # no weights at all, and a photo that cannot be read
    model = tmp_path / "model"
    shutil.copytree(TINY, model, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(TINY / "prompts.safetensors", model)
    (raw / "image/me.png").write_bytes(b"damaged")
    more = [f"--pose={pose}"] if explicit else []
    if task == "transfer":
        more += [f"--source-person={raw}/image/other.png"]
    assert sample(raw, tmp_path / "out", *more, task=task, checkpoint=model) == 2
    said = capsys.readouterr().err
    assert "style 'positions', and this one is 'normals' (pose_maps.json beside it)" in said
    assert "`omfa data poses --style positions`" in said


def test_a_map_of_no_known_style_is_taken_and_a_damaged_note_refused(raw, tmp_path, capsys):
    pose = write_map(raw)
    (raw / "pose" / SETTINGS_FILE).unlink()
    assert sample(raw, tmp_path / "out") == 0
    (raw / "pose" / SETTINGS_FILE).write_text("[]")
    assert sample(raw, tmp_path / "out") == 2
    assert 'expected JSON with the maps\' "style"' in capsys.readouterr().err
    slots = omfa.SlotFitter(read_settings(TINY))
    for load in (slots.load_pose, lambda path: slots.fit_images("pose", path)):
        (raw / "pose" / SETTINGS_FILE).write_text('{"style": "parts"}')
        with pytest.raises(omfa.OmfaError, match="this one is 'parts'"):
            load(pose)


def write_keypoints(raw, rows=None, name="openpose_json/me_keypoints.json"):
    if rows is None:
        rows = np.zeros((25, 3))
        # nose to ankles of a standing person, and the face
        rows[:15, 0], rows[:15, 1], rows[:15, 2] = 1050, np.linspace(430, 690, 15), 0.9
        rows[[2, 3, 4, 9, 10, 11], 0], rows[[5, 6, 7, 12, 13, 14], 0] = 1020, 1080
        rows[15:19] = [(1044, 425, 0.9), (1056, 425, 0.9), (1036, 428, 0.9), (1064, 428, 0.9)]
    tiny.write_keypoints(raw / name, rows)
    return raw / name


class StandInFit:
    """Accepts or rejects, without the compilation of the fit."""

    accepted, calls = True, []

    def __init__(self, model, known):
        self.known = known

    def __call__(self, rows, sizes):
        self.calls.append((rows, sizes))
        camera = make_look_at_camera(
            (0.4, 0, 4), (0.4, 0, 0), focal_px=690.0, width_px=sizes[0][0], height_px=sizes[0][1]
        )
        report = {"accepted": self.accepted, "reason": "it leans", "median_px": 1.0}
        fields = {"params": make_neutral_params(), "camera": camera}
        return [type("Fit", (), fields | {"report": type("Report", (), report)})]


@pytest.fixture
def fit(monkeypatch):
    monkeypatch.setattr("omfa_jax.body.fit.fitter.Fitter", StandInFit)
    monkeypatch.setattr(StandInFit, "calls", [])
    # a fit is kept for the next person
    get_fitter.cache_clear()
    yield StandInFit
    get_fitter.cache_clear()


@pytest.mark.parametrize("beside", [True, False])
def test_keypoints_fit_the_body(raw, tmp_path, fit, caplog, beside):
    caplog.set_level("INFO")
    more = []
    if not beside:
        # what is given goes before what lies there
        write_map(raw)
        more = [f"--keypoints={write_keypoints(raw, name='mine.json')}"]
    else:
        write_keypoints(raw)
    assert sample(raw, tmp_path / "out", *more) == 0
    ((rows, sizes),) = fit.calls
    assert rows.shape == (1, 25, 3) and sizes == [(WIDTH_PX, HEIGHT_PX)]
    result = read_rgb(tmp_path / "out/try_on_00.png")
    assert result.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert "fitting the body" in caplog.text and "cropped to the" in caplog.text
    # in the style of the model
    assert np.unique(result.reshape(-1, 3), axis=0).shape[0] > 100


def test_a_rejected_fit_is_said_and_still_places_the_person(
    raw, tmp_path, fit, monkeypatch, caplog
):
    write_keypoints(raw)
    monkeypatch.setattr(fit, "accepted", False)
    assert sample(raw, tmp_path / "out") == 0
    assert "no body from these keypoints: it leans" in caplog.text
    assert "the model chooses one (null pose)" in caplog.text
    said = json.loads((tmp_path / "out/try_on.json").read_text())
    left, top, right, bottom = said["crops_px"]["try_on"]
    assert left < 1000 < 1100 < right and top < 420 and bottom > 690
    # too few points are not worth compiling the fit
    tiny.write_keypoints(raw / "openpose_json/me_keypoints.json", tiny.keypoints())
    assert sample(raw, tmp_path / "out") == 0
    assert "5 confident keypoints, at least 6 are needed" in caplog.text
    assert len(fit.calls) == 1


def test_the_same_from_python(raw, fit):
    slots = omfa.SlotFitter(read_settings(TINY))
    write_map(raw)
    photo = read_rgb(raw / "image/me.png")
    me = omfa.load_person(slots, raw / "image/me.png", face=raw / "face.png")
    assert me.frame.crop is not None and me.pose.shape == (1, 128, 96, 3)
    restored = me.restore(from_signed(me.person))
    assert restored.shape == (1, HEIGHT_PX, WIDTH_PX, 3)
    assert np.abs(find_red(restored[0]) - BOX).max() <= 2
    whole = omfa.load_person(slots, photo, pose=raw / "pose/me.png", crop=False, face=photo)
    assert whole.frame.crop is None and whole.frame.photo_px == (HEIGHT_PX, WIDTH_PX)
    null = omfa.load_person(slots, raw / "image/me.png", null_pose=True, face=photo)
    assert null.pose is None and null.frame is None
    people = np.zeros((1, 128, 96, 3), np.uint8)
    assert null.restore(people) is people
    # an array has nothing beside it
    with pytest.raises(omfa.OmfaError, match=r"the photo: no person found .* or give --face"):
        omfa.load_person(slots, photo)
    alone = omfa.load_person(slots, photo, keypoints=write_keypoints(raw, name="mine.json"))
    assert alone.face.shape == (1, *slots.sizes["face"], 3) and alone.frame.crop is not None


def test_a_turn_needs_a_body_and_finds_it(raw, tmp_path, capsys, fit):
    write_map(raw)
    assert sample(raw, tmp_path / "out", "--views=2", task="turntable") == 2
    assert "an image cannot be turned" in capsys.readouterr().err
    write_body(raw / "smplx/me.npz")
    assert sample(raw, tmp_path / "out", "--views=2", task="turntable") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("turntable_00.png", "turntable_01.png"),
        *("turntable.json", "sheet.png", "person_body.npz"),
    }
    assert "6/6" in capsys.readouterr().err
    assert read_rgb(tmp_path / "out/turntable_01.png").shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_keypoints_that_were_only_found_do_not_stop_a_task(raw, tmp_path, fit, caplog, capsys):
    path = raw / "openpose_json/me_keypoints.json"
    for text, said in (("{}", "; not used"), ('{"people": []}', "no person in the keypoints")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        caplog.clear()
        assert sample(raw, tmp_path / "out") == 0
        assert said in caplog.text and "null pose" in caplog.text
    path.write_text("{}")
    assert sample(raw, tmp_path / "out", f"--keypoints={path}") == 2
    assert f"keypoints {path}: " in capsys.readouterr().err
    assert not fit.calls
    rows = tiny.keypoints(18)
    rows[1:14] = 0.9
    rows[1:14, 0], rows[1:14, 1] = np.linspace(900, 1000, 13), np.linspace(300, 700, 13)
    tiny.write_keypoints(path, rows)
    assert sample(raw, tmp_path / "out") == 0
    assert fit.calls[0][0].shape == (1, 25, 3)
