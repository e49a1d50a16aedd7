"""The face box: keypoints, the parse map, and never a failure."""

import numpy as np
import pytest
from tiny_viton import FACE_CENTRE_PX, HEIGHT_PX, WIDTH_PX, keypoints, label_map

from omfa_jax.data.builders import face_box
from omfa_jax.data.builders.label_sets import CIHP
from omfa_jax.data.records.face_crop import FaceBox, crop_face

SIZE = (HEIGHT_PX, WIDTH_PX)


def _middle(box: FaceBox) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_ears_eyes_and_nose_give_a_square():
    box = face_box.find_box_from_keypoints(keypoints(), *SIZE)
    x, y = FACE_CENTRE_PX
    # ears 10 px apart are the head's width; the nose 2 px lower moves the middle down by 1
    assert box == pytest.approx((x - 9.5, y + 1 - 1 - 9.5, x + 9.5, y + 1 - 1 + 9.5))


def test_rows_of_no_known_order_give_no_box():
    for count in (17, 18):
        assert face_box.find_box_from_keypoints(np.ones((count, 3)), *SIZE) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows * [1, 1, 0.1],
        lambda rows: rows * [0, 0, 1],
        lambda rows: rows + [1000, 0, 0],
        lambda rows: np.where(np.arange(25)[:, None] == 0, rows, 0),
        lambda rows: rows * [np.nan, 1, 1],
    ],
    ids=["low confidence", "at the origin", "outside", "nose only", "not a number"],
)
def test_doubtful_keypoints_fall_back_to_the_parse_map(spoil):
    rows = spoil(keypoints())
    assert face_box.find_box_from_keypoints(rows, *SIZE) is None
    box = face_box.find_face_box(rows, label_map(), *SIZE)
    assert box == face_box.find_box_from_labels(label_map(), *SIZE)
    assert _middle(box) == pytest.approx((24.5, 15), abs=1)
    assert face_box.find_face_box(rows, None, *SIZE) is None


def test_keypoints_come_before_the_parse_map_which_keeps_the_collar_out():
    plain = face_box.find_box_from_keypoints(keypoints(), *SIZE)
    assert face_box.find_face_box(keypoints(), None, *SIZE) == plain
    # the painted chin ends at row 22; 8% of 19 px below it is the square's new end
    box = face_box.find_face_box(keypoints(), label_map(), *SIZE)
    assert box == pytest.approx((14.5, 23.52 - 19, 33.5, 23.52))
    large = np.kron(label_map(), np.ones((2, 2), np.uint8))
    assert face_box.find_face_box(keypoints(), large, *SIZE) == pytest.approx(box, abs=0.5)
    elsewhere = np.roll(label_map(), -11, axis=0)
    assert face_box.find_face_box(keypoints(), elsewhere, *SIZE) == plain
    faceless = np.zeros(SIZE, np.uint8)
    assert face_box.find_face_box(keypoints(), faceless, *SIZE) == plain


def test_profile_without_eyes_and_far_ear():
    rows = np.zeros((25, 3))
    rows[0], rows[17] = (30, 20, 1), (22, 20, 1)
    left, top, right, bottom = face_box.find_box_from_keypoints(rows, *SIZE)
    assert right - left == pytest.approx(bottom - top) == pytest.approx(1.9 * 1.25 * 8)


def test_parse_box_covers_face_and_near_hair_with_margin():
    left, top, right, bottom = face_box.find_box_from_labels(label_map(), *SIZE)
    assert right - left == pytest.approx(1.2 * 14) and bottom - top == pytest.approx(1.2 * 14)
    assert left < 18 and right > 31 and top < 8 and bottom > 22


def test_long_hair_and_specks_do_not_swell_the_box():
    labels = label_map()
    plain = face_box.find_box_from_labels(labels, *SIZE)
    labels[24:60, 18:22] = CIHP.ids["hair"]
    assert face_box.find_box_from_labels(labels, *SIZE) == plain
    large = np.kron(label_map(), np.ones((8, 8), np.uint8))
    speckled = large.copy()
    speckled[-3:, -3:] = CIHP.ids["face"]
    size = large.shape
    assert face_box.find_box_from_labels(speckled, *size) == pytest.approx(
        face_box.find_box_from_labels(large, *size), abs=6
    )


def test_parse_map_of_another_size_is_scaled():
    small = face_box.find_box_from_labels(label_map(), *SIZE)
    doubled = face_box.find_box_from_labels(label_map(), 2 * HEIGHT_PX, 2 * WIDTH_PX)
    assert doubled == pytest.approx([2 * value for value in small])


def test_no_face_is_none():
    assert face_box.find_face_box(None, np.zeros(SIZE, np.uint8), *SIZE) is None
    assert face_box.find_face_box(None, None, *SIZE) is None


def test_crop_is_padded_over_the_edge_and_never_fails():
    image = np.full((20, 10, 3), 7, np.uint8)
    crop = crop_face(image, (-4.0, -2.0, 8.0, 10.0), fill=255)
    assert crop.shape == (12, 12, 3)
    assert (crop[:2] == 255).all() and (crop[:, :4] == 255).all() and (crop[2:, 4:] == 7).all()
    assert (crop_face(image, (100.0, 100.0, 105.0, 105.0)) == 255).all()
    assert crop_face(image, (3.0, 3.0, 3.0, 3.0)).shape == (1, 1, 3)
