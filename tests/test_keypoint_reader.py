"""The reader of 2D keypoints: the formats of today's tools, and whose picture they are of."""

import json

import keypoint_files as files
import numpy as np
import pytest
from keypoint_files import FORMATS, ORDER_25, PERSON, SIZE_PX, flat, openpose, transform, write

from omfa_jax.body.keypoints.joint_orders import BODY_25, JOINT_ORDERS
from omfa_jax.body.keypoints.keypoint_reader import (
    KeypointsError,
    NoPersonError,
    OtherAspectError,
    OtherSizeError,
    read_keypoints,
)


def read(tmp_path, document, size_px=SIZE_PX, **options):
    return read_keypoints(write(tmp_path / "k.json", document), size_px, **options)


def test_orders_have_their_names():
    assert [len(order.names) for order in JOINT_ORDERS.values()] == list(JOINT_ORDERS)
    assert list(JOINT_ORDERS) == [17, 18, 25, 26, 33, 133, 134, 136]
    assert (
        len(BODY_25) == len(ORDER_25) and BODY_25[8] == "mid_hip" and BODY_25[22] == "right_big_toe"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_person(tmp_path, name):
    make, joints = FORMATS[name]
    found = read(tmp_path, make(), photo="photos/me.png")
    expected = np.array([PERSON[j] if j in joints else (0, 0, 0) for j in ORDER_25])
    if name in files.CERTAIN:
        expected[:, 2] = expected[:, 2] > 0
    np.testing.assert_allclose(found.rows, expected, atol=1e-6)
    assert found.notes == ()


def test_utf_16_and_byte_order_marks(tmp_path):
    text = json.dumps(openpose(flat(ORDER_25)))
    for encoding in ("utf-16", "utf-8-sig"):
        path = tmp_path / f"{encoding}.json"
        path.write_text(text, encoding)
        assert read_keypoints(path, SIZE_PX).rows[0].tolist() == list(PERSON["nose"])


@pytest.mark.parametrize("size", [(384, 512), (768, 1024), (1152, 1536), (512, 704)])
def test_a_canvas_scales_the_points(tmp_path, size):
    # 512x704: ControlNet rounds the sides to multiples of 64 and stretches the photo
    across, down = size[0] / SIZE_PX[0], size[1] / SIZE_PX[1]
    points = {n: (x * across, y * down, c) for n, (x, y, c) in PERSON.items()}
    document = openpose(flat(ORDER_25, points), canvas_width=size[0], canvas_height=size[1])
    rows = read(tmp_path, [document]).rows
    np.testing.assert_allclose(rows, list(PERSON.values()), atol=1e-6)


@pytest.mark.parametrize("size", [(512, 512), (1024, 768), (540, 960), (700, 1000)])
def test_a_canvas_of_another_aspect_is_refused(tmp_path, size):
    document = openpose(flat(ORDER_25), canvas_width=size[0], canvas_height=size[1])
    words = (
        rf"k.json: keypoints of another aspect ratio .* {size[0]}x{size[1]} px, the photo has 768x"
    )
    with pytest.raises(OtherAspectError, match=words):
        read(tmp_path, document)


def test_points_of_another_size_are_refused(tmp_path):
    document = openpose(flat(ORDER_25))
    words = (
        r"k.json: keypoints of another size than the photo: they reach x 530 and y 985, the photo"
    )
    for size in ((384, 512), (512, 683), (1024, 768)):
        with pytest.raises(OtherSizeError, match=words):
            read(tmp_path, document, size)
    # OpenPose puts cropped feet a little below the edge; one wild point is no other size
    near = PERSON | {"rank": (322, 1060, 0.9), "lank": (449, 1090, 0.9)}
    assert read(tmp_path, openpose(flat(ORDER_25, near))).rows[11].tolist() == [322, 1060, 0.9]
    # a top-down detector's guess at feet that the photo cuts off
    guessed = PERSON | {"rank": (322, 1200, 0.25), "lank": (449, 1200, 0.25)}
    assert not read(tmp_path, openpose(flat(ORDER_25, guessed))).rows[[11, 14]].any()
    with pytest.raises(OtherSizeError):
        guessed = {n: (x, y, 0.3 if y == 1200 else c) for n, (x, y, c) in guessed.items()}
        read(tmp_path, openpose(flat(ORDER_25, guessed)))
    wild = PERSON | {"lear": (5000, 146, 0.9)}
    rows = read(tmp_path, openpose(flat(ORDER_25, wild))).rows
    assert not rows[ORDER_25.index("lear")].any() and rows[0].tolist() == list(PERSON["nose"])


def test_the_largest_of_several_people_is_used_unless_one_is_chosen(tmp_path):
    far = transform(0.2, (40, 40))
    people = [{"pose_keypoints_2d": flat(ORDER_25, one)} for one in (far, PERSON)]
    # a ghost of one point is nobody
    people.append({"pose_keypoints_2d": [700, 700, 0.9] + [0] * 72})
    document = {"people": people}
    found = read(tmp_path, document)
    assert found.rows[0].tolist() == list(PERSON["nose"])
    assert found.notes == (
        "2 people in the keypoints; the largest is used (--person-index chooses)",
    )
    chosen = read(tmp_path, document, person_index=0)
    np.testing.assert_allclose(chosen.rows, list(far.values()))
    assert chosen.notes == ()
    with pytest.raises(KeypointsError, match="--person-index 3: expected 0 to 2"):
        read(tmp_path, document, person_index=3)
    with pytest.raises(NoPersonError, match="number 2 has no confident points"):
        read(tmp_path, document, person_index=2)


def test_the_root_of_a_hand_stands_for_a_lost_wrist(tmp_path):
    person = {n: row for n, row in PERSON.items() if n != "lwri"}
    hand = [*PERSON["lwri"], *[0] * 60]
    people = [{"pose_keypoints_2d": flat(ORDER_25, person), "hand_left_keypoints_2d": hand}]
    rows = read(tmp_path, {"people": people}).rows
    assert rows[ORDER_25.index("lwri")].tolist() == list(PERSON["lwri"])
    people[0]["hand_left_keypoints_2d"] = [1, 2]
    assert not read(tmp_path, {"people": people}).rows[ORDER_25.index("lwri")].any()


@pytest.mark.parametrize(
    "document",
    [
        {"people": []},
        {"people": None},
        {"people": [{"pose_keypoints_2d": []}]},
        [{"people": [], "canvas_width": 768, "canvas_height": 1024}],
        [],
        {"predictions": [[]]},
        {"instance_info": []},
        {"bodies": {"candidate": [], "subset": []}},
        openpose([0] * 75),
        openpose([300, 300, 0.1] * 25),
    ],
)
def test_a_file_without_a_person_is_said(tmp_path, document):
    with pytest.raises(NoPersonError, match=r"k\.json: no person in the keypoints"):
        read(tmp_path, document)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "not JSON: the file is empty"),
        ('{"people": [', "not JSON: damaged at line 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"frames": ' * 700 + "{}" + "}" * 700, "nested too deeply|with frames|a dictionary"),
        ({"people": [{}]}, "expected the JSON of a pose tool, .* found a dictionary"),
        ({"shapes": [], "flags": {}}, "found a dictionary with shapes, flags"),
        ("7", "found 7"),
        (openpose([1, 2]), r"expected 17 \(COCO\), .* or 136 .* found 2 numbers"),
        (openpose([300.0, 300, 1] * 34), r"136 \(Halpe-FullBody\) rows of keypoints, found 34"),
        ({"keypoints": [[1, 2, 0.5]] * 16}, "rows of keypoints, found 16"),
        ({"keypoints": [[1] * 5] * 17}, "found an array of 17x5"),
        (openpose(["a"] * 51), "expected rows of numbers"),
        ({"keypoints": [[9, 9]] * 17, "scores": [1] * 16}, "each of 17 rows, found 16"),
        (openpose([300, 300, 250] * 25), "expected confidences from 0 to 1, found 250"),
        (openpose(flat(ORDER_25), canvas_width=0, canvas_height=9), "as canvas_width, found 0"),
        (openpose(flat(ORDER_25), canvas_width=768), "as canvas_height, found nothing"),
        (openpose([-0.5, 0.5, 1] * 18), "from 0 to 1, found -1 to 1"),
        (
            [openpose(flat(ORDER_25))] * 2,
            "found those of 2, none with .* keep the frame of this photo alone, add names as",
        ),
        ({"bodies": {"candidate": [[0.1, 0.1]], "subset": [3]}}, "candidate and subset"),
        ({"people": 3}, "expected a list as people, found 3"),
    ],
)
def test_other_files_are_one_clear_line(tmp_path, document, words):
    with pytest.raises(KeypointsError, match=f"^keypoints .*k.json: .*{words}") as caught:
        read(tmp_path, document)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(KeypointsError, match=r"gone\.json: No such file"):
        read_keypoints(tmp_path / "gone.json", SIZE_PX)


def test_a_results_file_of_other_photos_is_refused(tmp_path):
    make, _ = FORMATS["AlphaPose results"]
    with pytest.raises(
        KeypointsError, match="those of 2, none of them of she; call the photo as the file does"
    ):
        read(tmp_path, make(), photo="she.jpg")
    (one,) = read(tmp_path, make()[1:], photo="she.jpg").notes
    assert one == "keypoints that name another photo; used"


def test_a_photo_without_annotations_has_nobody(tmp_path):
    document = FORMATS["COCO annotations"][0]()
    document["annotations"].pop()
    with pytest.raises(NoPersonError):
        read(tmp_path, document, photo="me.jpg")


def test_marks_of_missing_points(tmp_path):
    spoiled = flat(ORDER_25)
    for joint, mark in enumerate(((0, 0, 0.9), (-1, -1, 0.9), (None, None, None), (9, 9, None))):
        spoiled[3 * joint : 3 * joint + 3] = mark
    rows = read(tmp_path, openpose(spoiled)).rows
    assert not rows[:4, 2].any() and rows[4].tolist() == list(PERSON["rwri"])


SIZE_FIELDS = {
    "plain": lambda w, h: {"width": w, "height": h},
    "labelme": lambda w, h: {"imageWidth": w, "imageHeight": h},
    "mmpose": lambda w, h: {"img_shape": [h, w, 3]},
}


@pytest.mark.parametrize("name", SIZE_FIELDS)
def test_sizes_of_other_tools_scale_the_points(tmp_path, name):
    halves = {n: (x / 2, y / 2, c) for n, (x, y, c) in PERSON.items()}
    fields = SIZE_FIELDS[name](SIZE_PX[0] // 2, SIZE_PX[1] // 2)
    found = read(tmp_path, openpose(flat(ORDER_25, halves), **fields))
    np.testing.assert_allclose(found.rows, list(PERSON.values()), atol=1e-6)
    assert found.notes == ()
    with pytest.raises(OtherAspectError, match="another aspect ratio"):
        read(tmp_path, openpose(flat(ORDER_25, halves), **SIZE_FIELDS[name](640, 480)))


def test_the_size_of_a_person_is_not_that_of_the_photo(tmp_path):
    person = {"keypoints": flat(ORDER_25), "width": 100, "height": 30}
    np.testing.assert_allclose(read(tmp_path, [person]).rows, list(PERSON.values()))


def test_points_of_a_smaller_photo_are_noted(tmp_path):
    halves = {n: (x / 2, y / 2, c) for n, (x, y, c) in PERSON.items()}
    people = openpose(flat(ORDER_25, halves))
    assert [note[:42] for note in read(tmp_path, people).notes] == [
        "keypoints in the upper left quarter of the"
    ]
    # with somebody elsewhere, the photo is not a smaller one
    people["people"] += openpose(flat(ORDER_25))["people"]
    assert read(tmp_path, people, person_index=0).notes == ()


def test_confidences_in_place_of_indices(tmp_path):
    # DWPose without its step that turns scores into indices
    places = [PERSON[name][:2] for name in (*ORDER_25[:8], *ORDER_25[9:19])]
    far = [[x + 1, y + 1] for x, y in places]
    trust = [0.9 if number % 2 else 0.5 for number in range(len(places))]
    bodies = {"candidate": far + [list(place) for place in places], "subset": [trust, trust]}
    rows = read(tmp_path, {"bodies": bodies}, person_index=1).rows
    assert rows[1].tolist() == [*PERSON["neck"][:2], 0.9]
    assert rows[9].tolist() == [*PERSON[ORDER_25[9]][:2], 0.5]


def test_percent_is_told_from_a_corner(tmp_path):
    percent = {n: (x / 7.68, y / 10.24, c) for n, (x, y, c) in PERSON.items()}
    document = openpose(flat(ORDER_25, percent))
    for size in (SIZE_PX, (192, 256), (150, 200)):
        found = read(tmp_path, document, size)
        expected = np.array(list(PERSON.values())) * [size[0] / 768, size[1] / 1024, 1]
        np.testing.assert_allclose(found.rows, expected, atol=1e-6)
        assert "used as percent of the photo's sides" in found.notes[-1]
    # a frame of the list that says its photo, and pixels that are said to be pixels
    stated = openpose(flat(ORDER_25, percent), canvas_width=768, canvas_height=1024)
    assert read(tmp_path, stated).rows[0, 1] == pytest.approx(PERSON["nose"][1] / 10.24)
    # people of a small photo, and in the corner of a large one
    places = ((transform(0.125), (96, 128)), (transform(0.05, (5, 5)), SIZE_PX))
    places += ((transform(0.1, (30, 30)), SIZE_PX), (transform(0.1, (30, 2)), (120, 160)))
    for person, size in places:
        found = read(tmp_path, openpose(flat(ORDER_25, person)), size)
        np.testing.assert_allclose(found.rows, list(person.values()), atol=1e-6)
        assert not any("percent" in note for note in found.notes)


def test_depths_are_no_confidences(tmp_path):
    # as MediaPipe has them, relative to the hips, and in metres
    relative = {n: (x, y, -0.4 + i / 40) for i, (n, (x, y, _)) in enumerate(PERSON.items())}
    with pytest.raises(
        KeypointsError, match=r"from 0 to 1, found -0.4 to 0.2: depths\? write rows"
    ):
        read(tmp_path, openpose(flat(ORDER_25, relative)))
    metres = {n: (x, y, 2.1 + i / 40) for i, (n, (x, y, _)) in enumerate(PERSON.items())}
    found = read(tmp_path, openpose(flat(ORDER_25, metres)))
    assert found.notes[0].startswith("keypoints whose third numbers are all above 1 and alike")
    assert (found.rows[:, 2] == 1).all()
    # scores of SimCC differ, and those of absent points may be below 0
    scores = {n: (x, y, 0.9 + i / 4) for i, (n, (x, y, _)) in enumerate(PERSON.items())}
    scores["nose"] = (-1, -1, -0.5)
    found = read(tmp_path, openpose(flat(ORDER_25, scores)))
    assert found.notes == () and found.rows[:, 2].tolist() == [0, 1, *[1] * 23]
