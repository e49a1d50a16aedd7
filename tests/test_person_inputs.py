"""`omfa sample`: people come back in their photo's frame, whatever its aspect."""

import json

import numpy as np
import pytest
from wide_photos import (
    BOX,
    HEIGHT_PX,
    STYLE,
    TINY,
    WIDTH_PX,
    draw,
    find_red,
    install,
    sample,
    write_body,
    write_map,
    write_raw,
)

from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.cli.main import main
from omfa_jax.core.images import read_rgb, write_image
from omfa_jax.sampling.image_inputs import render_pose
from omfa_jax.sampling.sample_files import can_report_steps


@pytest.fixture
def raw(tmp_path, monkeypatch):
    install(monkeypatch)
    return write_raw(tmp_path)


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
    assert said["images_px"] == {"try_on_00.png": [WIDTH_PX, HEIGHT_PX]}
    assert said["seed"] == 0 and said["task"] == "try_on" and said["sampler"]["steps"] == 3
    assert said["inputs"]["pose"] == str(raw / "pose/me.png")
    bar = capsys.readouterr().err
    assert "sampling: 100%" in bar and "3/3" in bar


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
    write_map(raw, image=draw(box, size_px))
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
    pose = write_map(tmp_path, image=draw((100, 50, 300, 500), (512, 384)))
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
    assert "no pose says where the person is: the result has the model's size" in caplog.text
    assert sample(raw, tmp_path / "off", "--null-pose", task="try_off") == 0
    assert "no pose says where the person is: all of it is letter-boxed" in caplog.text
    write_image(raw / "image/me.png", draw((100, 100, 300, 900), (1024, 440)))
    assert sample(raw, tmp_path / "tall", "--null-pose") == 0
    assert read_rgb(tmp_path / "tall/try_on_00.png").shape == (1024, 440, 3)


def test_no_step_is_reported_where_that_would_cost_the_compilation_cache(
    raw, tmp_path, monkeypatch, caplog, capsys
):
    write_map(raw)
    assert not can_report_steps(), "the tests have a compilation cache"
    monkeypatch.setattr("omfa_jax.sampling.sample_files.can_report_steps", can_report_steps)
    caplog.set_level("INFO")
    assert sample(raw, tmp_path / "out") == 0
    assert "JAX's compilation cache is on" in caplog.text
    assert "3/3" in capsys.readouterr().err
