"""Where a slot lies in a photo, and the way back: in the package and in the script of an export."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import omfa_jax
from omfa_jax.body.body_box import find_body_box, find_keypoint_box, find_map_box, join_boxes
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.core.images import from_signed
from omfa_jax.sampling.photo_frame import PhotoFrame, choose_crop, have_one_aspect

SLOT = (1024, 768)
# photos and where the person is: 16:9 with a person of a third of the height, at an edge, square,
# 9:16, of the slot's aspect with a small person
CASES = {
    "wide": ((900, 1600), (980, 420, 1100, 720)),
    "edge": ((900, 1600), (0, 500, 150, 900)),
    "wide and full": ((900, 1600), (600, 10, 1000, 900)),
    "lying": ((900, 1600), (200, 600, 1500, 850)),
    "square": ((768, 768), (250, 60, 520, 768)),
    "small in 3:4": ((1024, 768), (300, 600, 420, 900)),
    "odd": ((901, 1603), (333, 207, 471, 590)),
}


@pytest.fixture(scope="module")
def script():
    path = Path(omfa_jax.__file__).parent / "assets" / "omfa_frame.py"
    spec = importlib.util.spec_from_file_location("omfa_frame", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(size_px, box, ground=(90, 120, 160), colour=(250, 40, 20)):
    """A photo with a plain person on plain ground."""
    image = np.full((*size_px, 3), ground, np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = colour
    return image


def find_red(image):
    y, x = np.nonzero(image[..., 0].astype(int) - image[..., 2] > 100)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("slot", [SLOT, (128, 96)])
def test_a_person_that_is_not_changed_keeps_their_place(case, slot):
    size_px, box = CASES[case]
    photo = draw(size_px, box)
    for part in (choose_crop(size_px, slot, box), None):
        frame = PhotoFrame(size_px, slot, part)
        shown = from_signed(frame.fit(photo, 255))[0]
        assert shown.shape == (*slot, 3)
        result = frame.restore(shown, photo)
        assert result.shape == photo.shape
        # a slot of 128x96 px has photo pixels of up to 17 px; a crop's are smaller
        scale = max(frame.part_px[0] / slot[0], frame.part_px[1] / slot[1])
        assert np.abs(find_red(result) - box).max() <= max(2, 0.7 * scale)
        if part is not None:
            left, top, right, bottom = part
            outside = np.ones(size_px, bool)
            outside[top:bottom, left:right] = False
            np.testing.assert_array_equal(result[outside], photo[outside])


def test_a_photo_is_cropped_where_the_person_would_be_small():
    for case, (size_px, box) in CASES.items():
        part = choose_crop(size_px, SLOT, box)
        if case == "lying":
            assert part is None, "the whole width is needed"
            continue
        assert part is not None, case
        left, top, right, bottom = part
        assert 0 <= left <= box[0] and box[2] <= right <= size_px[1]
        assert 0 <= top <= box[1] and box[3] <= bottom <= size_px[0]
        frame = PhotoFrame(size_px, SLOT, part)
        assert abs(frame.part_px[1] / frame.part_px[0] - 0.75) < 0.01, case
    # a third of the height becomes five sixths
    left, top, right, bottom = choose_crop(*CASES["wide"][:1], SLOT, CASES["wide"][1])
    assert 0.8 < 300 / (bottom - top) < 0.85


def test_a_photo_with_a_large_person_is_taken_whole():
    assert choose_crop((1024, 768), SLOT, (100, 60, 700, 1024)) is None
    assert choose_crop((1024, 440), SLOT, (40, 60, 400, 1024)) is None
    assert choose_crop((900, 1600), SLOT, None) is None


def test_the_edge_of_a_crop_is_blended_except_at_the_photos_own():
    size_px, box = CASES["edge"]
    frame = PhotoFrame(size_px, SLOT, choose_crop(size_px, SLOT, box))
    left, top, right, bottom = frame.crop
    assert (left, bottom) == (0, size_px[0])
    result = frame.restore(np.full((*SLOT, 3), 255, np.uint8), np.zeros((*size_px, 3), np.uint8))
    assert (result[bottom - 1, :1] == 255).all() and result[top, 0].max() < 60
    assert 0 < result[bottom - 1, right - 1].max() < 60 and not result[:, right:].any()
    # without a photo around it
    alone = frame.restore(np.zeros((*SLOT, 3), np.uint8))
    assert alone.shape == (*size_px, 3) and (alone[:top] == 255).all()


def test_scaled_copies_have_one_aspect():
    for first, second in (
        ((1024, 768), (512, 384)),
        ((900, 1600), (54, 96)),
        ((54, 96), (900, 1600)),
        ((1101, 750), (367, 250)),
        ((901, 1603), (450, 801)),
    ):
        assert have_one_aspect(first, second)
    for first, second in (((900, 1600), (1024, 768)), ((768, 768), (1024, 768))):
        assert not have_one_aspect(first, second)


def test_boxes_of_bodies_maps_and_keypoints():
    camera = make_look_at_camera((0, 0, 4), (0, 0, 0), focal_px=400.0, width_px=320, height_px=180)
    # the square of 0.4 m around the origin, 4 m away: 40 px
    corners = np.array([(-0.2, -0.2, 0), (0.2, -0.2, 0), (-0.2, 0.2, 0), (0.2, 0.2, 0)])
    assert find_body_box(corners, camera) == pytest.approx((140, 70, 180, 110))
    # what is outside the photo or behind the camera does not count
    wide = np.concatenate([corners, [(9.0, 0.0, 0.0), (0.0, 0.0, 5.0)]])
    assert find_body_box(wide, camera) == pytest.approx((140, 70, 320, 110))
    assert find_body_box(corners + (0, 0, 9), camera) is None
    for ground in ((0, 0, 0), (128, 128, 128)):
        shown = draw((180, 320), (140, 70, 180, 180), ground=ground)
        assert find_map_box(shown) == (140, 70, 180, 180)
    assert find_map_box(np.zeros((8, 8, 3), np.uint8)) is None
    rows = np.zeros((25, 3))
    rows[:5] = [(150, 80, 0.9), (170, 80, 0.9), (160, 100, 0.9), (160, 120, 0.9), (160, 180, 0.9)]
    rows[5:8] = [(20, 20, 0.1), (0, 0, 0.9), (np.nan, 9, 0.9)]
    # grown by 15% of the 40 px of the points inside
    assert find_keypoint_box(rows, 320, 180) == pytest.approx((144, 74, 176, 126))
    assert find_keypoint_box(rows[:3], 320, 180) is None
    assert join_boxes([(1, 2, 3, 4), None, (0, 3, 2, 9)]) == (0, 2, 3, 9)
    assert join_boxes([None]) is None


def test_a_cropped_camera_sees_what_the_crop_shows():
    camera = make_look_at_camera((0, 0, 4), (0, 0, 0), focal_px=400.0, width_px=320, height_px=180)
    frame = PhotoFrame((360, 640), (64, 48), (200, 100, 290, 220))
    point = np.array([[-0.2, 0.1, 0.0]])
    (x, y), _ = camera.project(point)[0][0], None
    (column, row) = frame.fit_camera(camera).project(point)[0][0]
    # twice the size, minus the corner, in a slot of 64/120 px a pixel
    assert (column, row) == pytest.approx(((2 * x - 200) * 64 / 120, (2 * y - 100) * 64 / 120))


@pytest.mark.parametrize("case", CASES)
def test_the_exported_script_frames_as_the_package_does(script, case):
    size_px, box = CASES[case]
    photo = draw(size_px, box)
    pose = draw(size_px, box, ground=(0, 0, 0))
    frame = script.choose_frame(photo, pose, SLOT)
    ours = PhotoFrame(size_px, SLOT, choose_crop(size_px, SLOT, find_map_box(pose)))
    assert frame.crop == ours.crop
    shown = script.letterbox(frame.cut(photo), *SLOT, 255)
    np.testing.assert_array_equal(shown, from_signed(ours.fit(photo, 255))[0])
    restored = frame.restore(shown, photo)
    np.testing.assert_array_equal(restored, ours.restore(shown, photo))
    assert np.abs(find_red(restored) - box).max() <= 2
    assert script.choose_frame(photo, pose, SLOT, crop=False).crop is None


def test_the_exported_script_knows_when_it_does_not_know(script):
    photo = draw(*CASES["wide"])
    assert script.choose_frame(photo, None, SLOT) is None
    assert script.choose_frame(None, None, SLOT) is None
    assert script.choose_frame(draw((1024, 440), (40, 60, 400, 1024)), None, SLOT).crop is None
    # a target pose of another photo
    pose = draw((1024, 768), (200, 100, 500, 900), ground=(0, 0, 0))
    frame = script.choose_frame(photo, pose, SLOT)
    assert frame.photo_px == (1024, 768) and frame.crop is None
    small = np.array(Image.fromarray(draw(*CASES["wide"], ground=(0, 0, 0))).resize((320, 180)))
    scaled = script.choose_frame(photo, small, SLOT)
    assert scaled.photo_px == (900, 1600) and scaled.cut(small).shape[:2] == scaled.part_px
