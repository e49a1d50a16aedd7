"""DeepFashion-MultiModal: names, groups, the split by id, and where garment and face come from."""

import json

import numpy as np
import pytest
import tiny_viton as tiny
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.deepfashion_multimodal import DeepFashionMultiModal
from omfa_jax.data.builders.deepfashion_names import (
    PhotoName,
    assign_split,
    get_garment_category,
    parse_photo_name,
)
from omfa_jax.data.builders.garment_cutout import cut_out_garment
from omfa_jax.data.builders.label_sets import CIHP, DEEPFASHION
from omfa_jax.data.builders.landmark_files import LANDMARKS, read_landmarks

HEIGHT_PX, WIDTH_PX = tiny.HEIGHT_PX, tiny.WIDTH_PX
IDS = {"hair": "hair", "face": "face", "upper": "top", "pants": "pants"}
ALL_TRAIN = (1.0, 0.0, 0.0)


def segm(*, without=()):
    labels, ours = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8), tiny.label_map()
    for cihp, name in IDS.items():
        labels[ours == CIHP.ids[cihp]] = 0 if name in without else DEEPFASHION.ids[name]
    return labels


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.json").write_text("{}")
    return tmp_path


def add(root, name, number=0, labels=None):
    images.write_image(root / "images" / f"{name}.jpg", tiny.photo(number))
    if labels is not None:
        tiny.write_labels(root / "segm" / f"{name}_segm.png", labels)


def listed(root, *, split_shares=ALL_TRAIN, clean=None):
    warnings = []
    splits = DeepFashionMultiModal.list_items(
        str(root), warnings, split_shares=split_shares, clean=clean
    )
    return splits, warnings


def read(root, name, **options):
    splits, _ = listed(root, **options)
    item = next(i for members in splits.values() for i in members if i.key == name)
    return DeepFashionMultiModal.read(item)


def test_names():
    name = parse_photo_name("MEN-Tees_Tanks-id_00000080-01_7_additional")
    assert name == PhotoName("MEN", "Tees_Tanks", "00000080", "01", "additional")
    assert name is not None and name.group == "MEN-Tees_Tanks-id_00000080-01"
    for bad in (
        "MEN-Denim-id_0000080-01_7_additional",
        "MAN-Denim-id_00000080-01_7_additional",
        "MEN-Denim-id_00000080-01_7",
        "fashionMENDenimid0000008001_7additional",
        "MEN-Denim-id_00000080-01_7_additional (1)",
    ):
        assert parse_photo_name(bad) is None
    words = {"Denim": "", "Tees_Tanks": "upper", "Skirts": "lower", "Rompers_Jumpsuits": "dress"}
    assert {word: get_garment_category(word) for word in words} == words


def test_the_split_is_a_function_of_the_id_alone():
    ids = [f"{number:08d}" for number in range(8000)]
    shares = [
        np.mean([assign_split(i) == split for i in ids]) for split in ("train", "val", "test")
    ]
    np.testing.assert_allclose(shares, (0.965, 0.01, 0.025), atol=0.006)
    # sha256sum of "0:00000080" starts with 52756a32: 0.3221 of the way from 0 to 1
    assert assign_split("00000080", 0, (0.0, 0.683, 0.317)) == "val"
    assert assign_split("00000080", 0, (0.0, 0.673, 0.327)) == "test"
    assert any(assign_split(i, seed=1) != assign_split(i, seed=0) for i in ids)


def test_a_person_is_in_one_split(root):
    for person in range(12):
        for gender, outfit in (("MEN", 1), ("WOMEN", 2)):
            add(root, f"{gender}-Pants-id_{person:08d}-{outfit:02d}_1_front")
    splits, _ = listed(root, split_shares=(0.4, 0.3, 0.3))
    people = {
        split: {item.key.split("_")[1][:8] for item in items} for split, items in splits.items()
    }
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 12
    assert len(people) == 3 and sum(map(len, splits.values())) == 24
    with pytest.raises(OmfaError, match="--split-shares: expected three numbers"):
        listed(root, split_shares=(0.5, 0.5, 0.5))


def test_record_fields(root):
    name = "WOMEN-Tees_Tanks-id_00000007-02_4_full"
    add(root, name, 3, segm())
    images.write_image(root / "pose" / f"{name}.png", tiny.pose_map(0))
    (root / "captions.json").write_text(json.dumps({f"{name}.jpg": "A green top."}))
    record, flaws = read(root, name)
    assert (record.group, record.person_id) == ("WOMEN-Tees_Tanks-id_00000007-02", "00000007")
    assert (record.caption, record.category, record.garment_source) == (
        "A green top.",
        "upper",
        "worn",
    )
    assert record.has_pose and record.has_face and flaws == []
    photo = images.read_rgb(record.person)
    cut = cut_out_garment(photo, segm(), DEEPFASHION, "upper")
    assert np.abs(images.read_rgb(record.garment).astype(int) - cut).mean() < 1


def test_a_photo_without_a_map_wears_the_groups_clearest_garment(root):
    group = "WOMEN-Dresses-id_00000001-01"
    add(root, f"{group}_3_back", 1, segm())
    add(root, f"{group}_2_side", 2, segm())
    add(root, f"{group}_4_full", 3, segm(without=("top", "pants")))
    add(root, f"{group}_7_additional", 4)
    add(root, "WOMEN-Dresses-id_00000001-02_1_front", 0, segm())
    record, _ = read(root, f"{group}_7_additional")
    # the full view shows no garment, the side comes before the back; another outfit is no source
    garment = images.read_rgb(record.garment)
    np.testing.assert_allclose(garment[HEIGHT_PX // 2, WIDTH_PX // 2], tiny.colour(2), atol=6)
    person = images.read_rgb(record.person)
    np.testing.assert_allclose(person[40, 24], tiny.colour(4), atol=6)
    own, _ = read(root, f"{group}_3_back")
    np.testing.assert_allclose(images.read_rgb(own.garment)[32, 24], tiny.colour(1), atol=6)
    clean = root / "clean.txt"
    clean.write_text(f"{group}_2_side.jpg")
    record, _ = read(root, f"{group}_7_additional", clean=clean)
    np.testing.assert_allclose(images.read_rgb(record.garment)[32, 24], tiny.colour(1), atol=6)


def test_category_is_what_the_name_sells_if_it_shows(root):
    for number, (word, labels, category) in enumerate(
        [
            ("Tees_Tanks", segm(), "upper"),
            ("Pants", segm(), "lower"),
            ("Denim", segm(), "upper"),
            ("Denim", segm(without=("top",)), "lower"),
            ("Skirts", segm(without=("pants",)), "upper"),
        ]
    ):
        name = f"WOMEN-{word}-id_{number:08d}-01_4_full"
        add(root, name, 0, labels)
        assert read(root, name)[0].category == category


def test_no_garment_in_the_group_is_a_reason(root):
    name = "MEN-Pants-id_00000001-01_1_front"
    add(root, name)
    with pytest.raises(OmfaError, match=r"no photo of MEN-Pants-id_00000001-01 has a label map"):
        read(root, name)
    add(root, "MEN-Pants-id_00000001-01_4_full", 0, np.full((HEIGHT_PX, WIDTH_PX), 99, np.uint8))
    with pytest.raises(OmfaError, match=r"full_segm.png: label map has ids"):
        read(root, name)


def test_damaged_captions_cost_only_captions(root):
    name = "MEN-Pants-id_00000001-01_4_full"
    add(root, name, 0, segm())
    for text in ("{", "[]", None):
        path = root / "captions.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        assert any("captions are empty" in line for line in listed(root)[1])
        assert read(root, name)[0].caption == ""


def write_points(root, name, spoil="", scale=1):
    rows = np.full((len(LANDMARKS), 2), -1.0)
    x, y = tiny.FACE_CENTRE_PX
    for landmark, place in {
        "nose": (x, y + 2),
        "right_eye": (x - 2, y),
        "left_eye": (x + 2, y),
        "right_ear": (x - 5, y),
        "left_ear": (x + 5, y),
    }.items():
        rows[LANDMARKS.index(landmark)] = np.multiply(place, scale)
    flags = ["2" if a < 0 else "0" for a, _ in rows]
    folder = root / "keypoints"
    folder.mkdir()
    points = " ".join(f"{value:g}" for value in rows.ravel())
    (folder / "keypoints_loc.txt").write_text(f"{name}.jpg {points}\nodd.jpg 1 2{spoil}\n")
    (folder / "keypoints_vis.txt").write_text(f"{name}.jpg {' '.join(flags)}\n")


def test_landmarks_give_the_face_but_not_from_behind(root):
    front, back = (f"MEN-Pants-id_00000001-01_{view}" for view in ("1_front", "3_back"))
    for name in (front, back):
        add(root, name)
    add(root, "MEN-Pants-id_00000001-01_4_full", 0, segm())
    write_points(root, front)
    warnings = []
    rows = read_landmarks(root / "keypoints", warnings)
    assert list(rows) == [front] and rows[front].shape == (21, 3)
    assert rows[front][:, 2].sum() == 5 and not rows[front][0].any()
    assert warnings == ["keypoints_loc.txt: 1 lines (odd.jpg) without 42 numbers"]
    record, _ = read(root, front)
    x, y = tiny.FACE_CENTRE_PX
    assert record.face_box_px == pytest.approx((x - 9.5, y - 9.5, x + 9.5, y + 9.5))
    for path in (root / "keypoints").iterdir():
        path.write_text(path.read_text().replace(front, back))
    assert not read(root, back)[0].has_face
    assert not read(root, front)[0].has_face


def test_landmarks_of_another_size_are_counted_and_not_used(root):
    name = "MEN-Pants-id_00000001-01_1_front"
    add(root, name)
    add(root, "MEN-Pants-id_00000001-01_4_full", 0, segm())
    write_points(root, name, scale=4)
    record, flaws = read(root, name)
    assert not record.has_face
    assert "keypoints of another size than the photo; not used" in flaws


def test_densepose_gives_the_face_where_nothing_else_does(root):
    name = "MEN-Pants-id_00000001-01_1_front"
    add(root, name)
    add(root, "MEN-Pants-id_00000001-01_4_full", 0, segm())
    parts = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    parts[8:22, 18:24, 2], parts[8:22, 24:31, 2], parts[24:50, 14:35, 2] = 23, 24, 2
    parts[..., 0] = 200
    path = root / "densepose" / f"{name}_densepose.png"
    images.write_image(path, parts)
    record, _ = read(root, name)
    left, top, right, bottom = record.face_box_px
    assert (left + right, top + bottom) == pytest.approx((49, 30), abs=2)
    Image.fromarray(parts[..., ::-1]).save(path)
    record, flaws = read(root, name)
    assert not record.has_face and any(flaw.startswith("damaged densepose (") for flaw in flaws)
