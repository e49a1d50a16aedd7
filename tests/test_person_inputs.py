"""`omfa sample` and the Python interface: photos of any aspect, and what lies beside them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_viton as tiny

import omfa_jax as omfa
from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_maps import SETTINGS_FILE
from omfa_jax.cli.main import main
from omfa_jax.core.images import from_signed, read_rgb, write_image
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.sampling.image_inputs import render_pose

TINY = Path(omfa.__file__).parent / "assets" / "tiny"
STYLE = "positions"
HEIGHT_PX, WIDTH_PX = 900, 1600
# a person of a third of the height
BOX = (1000, 400, 1110, 700)


class StandIn:
    """A sampler whose network returns the clean person: who is drawn in the pose map."""

    def __init__(self, model, settings, *, dtype, on_step):
        self.model, self.settings, self.dtype = model, settings, "float32"
        self.on_step = on_step

    def __call__(self, task, given, pose, *, seed, has_pose=None):
        for done in range(self.settings.steps):
            self.on_step(np.int32(done))
        slots = dict(zip(COMPONENTS, self.model.settings.slots_px, strict=True))
        blank = np.full((1, *slots["person"], 3), -1.0) if pose is None else pose
        row = next(row for row in self.model.settings.tasks if row.name == task)
        shown = {"person": blank, "garment": given.get("person", blank), "face": blank}
        return {name: from_signed(np.asarray(shown[name])) for name in row.noised}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr("omfa_jax.sampling.sampler.Sampler", StandIn)
    # the weights are not needed
    monkeypatch.setattr(
        "omfa_jax.model_loading.load_model",
        lambda path, ema: type("Model", (), {"settings": read_settings()}),
    )


def read_settings():
    from omfa_jax.model_loading import read_settings

    return read_settings(TINY)


def draw(box=BOX, size_px=(HEIGHT_PX, WIDTH_PX), ground=(0, 0, 0)):
    picture = np.full((*size_px, 3), ground, np.uint8)
    left, top, right, bottom = box
    picture[top:bottom, left:right] = (250, 40, 20)
    return picture


def find_red(picture):
    y, x = np.nonzero(picture[..., 0].astype(int) - picture[..., 2] > 100)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


@pytest.fixture
def raw(tmp_path):
    """A folder with a photo of 16:9, a garment and a face; nothing lies beside the photo."""
    folder = tmp_path / "raw" / "test"
    write_image(folder / "image" / "me.png", draw(ground=(90, 120, 160)))
    write_image(folder / "cloth.png", tiny.garment(1))
    write_image(folder / "face.png", np.full((20, 20, 3), 200, np.uint8))
    return folder


def sample(raw, out, *more, task="try_on", checkpoint=TINY):
    words = ["sample", f"--checkpoint={checkpoint}", f"--task={task}", f"--out={out}"]
    if task != "try_off":
        words += [f"--garment={raw}/cloth.png", f"--face={raw}/face.png"]
    return main([*words, f"--person={raw}/image/me.png", "--steps=3", *map(str, more)])


def write_map(raw, style=STYLE, picture=None):
    path = raw / "pose" / "me.png"
    write_image(path, draw() if picture is None else picture)
    note = {"style": style, "size_px": "as the photo", "body_model": "the free body"}
    (raw / "pose" / SETTINGS_FILE).write_text(json.dumps(note))
    return path


def test_a_wide_photo_comes_back_with_the_person_in_place(raw, tmp_path, caplog, capsys):
    write_map(raw)
    caplog.set_level("INFO")
    assert sample(raw, tmp_path / "out") == 0
    result, photo = read_rgb(tmp_path / "out/try_on_00.png"), read_rgb(raw / "image/me.png")
    assert result.shape == photo.shape
    assert np.abs(find_red(result) - BOX).max() <= 2
    said = json.loads((tmp_path / "out/try_on.json").read_text())
    left, top, _, bottom = said["crops_px"]["try_on"]
    # the person fills five sixths of the slot instead of a third of a quarter
    assert 0.8 < 300 / (bottom - top) < 0.85
    np.testing.assert_array_equal(result[:top], photo[:top])
    np.testing.assert_array_equal(result[:, :left], photo[:, :left])
    assert "cropped to the 270x360 px around the person" in caplog.text
    assert "1600x900 px, pasted back into the photo" in caplog.text
    assert f"the pose is {raw / 'pose/me.png'}" in caplog.text
    assert said["pictures_px"] == {"try_on_00.png": [WIDTH_PX, HEIGHT_PX]}
    assert said["seed"] == 0 and said["task"] == "try_on" and said["sampler"]["steps"] == 3
    assert said["inputs"]["pose"] == str(raw / "pose/me.png")
    bar = capsys.readouterr().err
    assert "compiling:   0%" in bar and "sampling: 100%" in bar and "3/3" in bar


def test_the_whole_photo_and_the_models_own_size_on_request(raw, tmp_path):
    write_map(raw)
    assert sample(raw, tmp_path / "whole", "--no-crop") == 0
    result = read_rgb(tmp_path / "whole/try_on_00.png")
    assert result.shape == (HEIGHT_PX, WIDTH_PX, 3)
    # a slot of 96 px for 1600: 17 px of the photo a pixel
    assert np.abs(find_red(result) - BOX).max() <= 12
    assert json.loads((tmp_path / "whole/try_on.json").read_text())["crops_px"] == {}
    assert sample(raw, tmp_path / "native", "--native-size", "--seed=7") == 0
    assert read_rgb(tmp_path / "native/try_on_00.png").shape == (128, 96, 3)
    said = json.loads((tmp_path / "native/try_on.json").read_text())
    assert said["seed"] == 7 and said["native_size"]


@pytest.mark.parametrize("size_px", [(1024, 440), (768, 768), (512, 384), (2000, 1500)])
def test_photos_of_every_aspect_come_back_at_their_size(raw, tmp_path, size_px):
    height, width = size_px
    box = (width // 4, height // 10, 3 * width // 4, height)
    write_image(raw / "image/me.png", draw(box, size_px, ground=(90, 120, 160)))
    write_map(raw, picture=draw(box, size_px))
    assert sample(raw, tmp_path / "out") == 0
    result = read_rgb(tmp_path / "out/try_on_00.png")
    assert result.shape == (*size_px, 3)
    # half a pixel of the slot
    scale = max(1.0, max(size_px) / 128)
    assert np.abs(find_red(result) - box).max() <= max(2, 0.7 * scale)


def test_a_garment_taken_off_has_the_models_size(raw, tmp_path, caplog):
    write_map(raw)
    caplog.set_level("INFO")
    assert sample(raw, tmp_path / "out", f"--face={raw}/face.png", task="try_off") == 0
    shown = read_rgb(tmp_path / "out/try_off_00.png")
    # the stand-in returns the person that it was given, cropped
    assert shown.shape == (128, 96, 3) and np.ptp(find_red(shown)[1::2]) > 100
    assert "cropped to the" in caplog.text


def write_body(path, size_px=(HEIGHT_PX, WIDTH_PX), focal_px=690.0):
    """A body whose height is about a third of the photo's."""
    height, width = size_px
    camera = make_look_at_camera(
        (0.4, 0, 4), (0.4, 0, 0), focal_px=focal_px * height / 900, width_px=width, height_px=height
    )
    path.parent.mkdir(exist_ok=True)
    save_body(path, make_neutral_params(), camera)
    return camera


@pytest.mark.parametrize("copy", [1, 2])
def test_a_body_beside_the_photo_is_drawn_at_its_place(raw, tmp_path, copy):
    # also where its camera is that of a scaled copy of the photo
    write_map(raw, "parts")
    camera = write_body(raw / "smplx/me.npz", (HEIGHT_PX // copy, WIDTH_PX // copy))
    assert sample(raw, tmp_path / "out") == 0
    result, photo = read_rgb(tmp_path / "out/try_on_00.png"), read_rgb(raw / "image/me.png")
    drawn = render_pose(make_neutral_params(), camera.resize(WIDTH_PX, HEIGHT_PX), STYLE, None)
    left, top, right, bottom = json.loads((tmp_path / "out/try_on.json").read_text())["crops_px"][
        "try_on"
    ]
    inside = result[top + 8 : bottom - 8, left + 8 : right - 8]
    expected = drawn[top + 8 : bottom - 8, left + 8 : right - 8]
    rows, columns = np.nonzero(inside.max(axis=-1) > 60)
    wanted_rows, wanted_columns = np.nonzero(expected.max(axis=-1) > 60)
    found = (rows.min(), rows.max(), columns.min(), columns.max())
    wanted = (wanted_rows.min(), wanted_rows.max(), wanted_columns.min(), wanted_columns.max())
    # a pixel of the slot is three of the photo: within half of one, and 2 px
    assert np.abs(np.subtract(found, wanted)).max() <= 3.5
    np.testing.assert_array_equal(result[:top], photo[:top])


def test_a_pose_of_another_photo_keeps_its_own_frame(raw, tmp_path, caplog):
    pose = write_map(tmp_path, picture=draw((100, 50, 300, 500), (512, 384)))
    assert sample(raw, tmp_path / "out", f"--pose={pose}") == 0
    assert read_rgb(tmp_path / "out/try_on_00.png").shape == (512, 384, 3)
    assert "its pose is of a photo of 384x512 px and places the person in a frame" in caplog.text
    assert sample(raw, tmp_path / "off", f"--pose={pose}", task="try_off") == 0
    assert "its pose is of a photo of 384x512 px and does not match it" in caplog.text


def test_a_pose_alone_gives_the_frame(raw, tmp_path):
    pose = write_map(tmp_path)
    out = tmp_path / "out"
    words = [f"--garment={raw}/cloth.png", f"--face={raw}/face.png", f"--pose={pose}", "--steps=3"]
    assert main(["sample", f"--checkpoint={TINY}", "--task=try_on", f"--out={out}", *words]) == 0
    assert read_rgb(out / "try_on_00.png").shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_without_a_pose_a_wide_photo_says_nothing_of_the_place(raw, tmp_path, caplog):
    write_map(raw)
    assert sample(raw, tmp_path / "out", "--null-pose") == 0
    assert read_rgb(tmp_path / "out/try_on_00.png").shape == (128, 96, 3)
    assert "the model chooses one (null pose)" in caplog.text
    assert "wider than the model's pictures" in caplog.text
    write_image(raw / "image/me.png", draw((100, 100, 300, 900), (1024, 440)))
    assert sample(raw, tmp_path / "tall", "--null-pose") == 0
    assert read_rgb(tmp_path / "tall/try_on_00.png").shape == (1024, 440, 3)


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
    slots = omfa.SlotFitter(read_settings())
    for load in (slots.load_pose, lambda path: slots.fit_pictures("pose", path)):
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
    return StandInFit


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
    slots = omfa.SlotFitter(read_settings())
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
    with pytest.raises(omfa.OmfaError, match="no face found for the photo"):
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
        *("turntable.json", "sheet.png"),
    }
    assert "6/6" in capsys.readouterr().err
    assert read_rgb(tmp_path / "out/turntable_01.png").shape == (HEIGHT_PX, WIDTH_PX, 3)
