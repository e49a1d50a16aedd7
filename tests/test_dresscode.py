"""DressCode: categories, lists, keys, and keypoints in their own frame."""

import json

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.body.keypoints.keypoint_reader import read_keypoints
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.dresscode import DressCode
from omfa_jax.data.builders.label_sets import ATR, CIHP
from omfa_jax.data.records.record_schema import open_records

HEIGHT_PX, WIDTH_PX = tiny.HEIGHT_PX, tiny.WIDTH_PX
NUMBERS = {"upper_body": 0, "lower_body": 1, "dresses": 2}
WORN = {"upper_body": "upper", "lower_body": "pants", "dresses": "dress"}


def labels(folder):
    ours, theirs = tiny.label_map(), np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for name, other in {"hair": "hair", "face": "face", "upper": WORN[folder]}.items():
        theirs[ours == CIHP.ids[name]] = ATR.ids[other]
    return theirs


def write_points(path, rows):
    scale = np.array([384 / WIDTH_PX, 512 / HEIGHT_PX])
    values = np.concatenate([rows[:, :2] * scale, rows[:, 2:], np.arange(18)[:, None]], axis=1)
    values[rows[:, 2] == 0] = (-1, -1, 0, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"keypoints": values.tolist()}))


def write_raw(root, *, lists="category"):
    """Two training and two test people in each category, with the same numbers in all of them."""
    everything = {}
    for folder, number in NUMBERS.items():
        for i in range(4):
            stem = f"{i:06d}"
            images.write_image(root / folder / "images" / f"{stem}_0.jpg", tiny.photo(i))
            images.write_image(root / folder / "images" / f"{stem}_1.jpg", tiny.garment(i))
            tiny.write_labels(root / folder / "label_maps" / f"{stem}_4.png", labels(folder))
            write_points(root / folder / "keypoints" / f"{stem}_2.json", tiny.keypoints(18))
        for name, pairs in {
            "train_pairs.txt": [(0, 0), (1, 1)],
            "test_pairs_paired.txt": [(2, 2), (3, 3)],
            "test_pairs_unpaired.txt": [(2, 3), (3, 2)],
        }.items():
            names = [(f"{a:06d}_0.jpg", f"{b:06d}_1.jpg") for a, b in pairs]
            if lists == "category":
                (root / folder / name).write_text("".join(f"{a} {b}\n" for a, b in names))
            everything.setdefault(name, []).extend(f"{a}\t{b}\t{number}\n" for a, b in names)
    if lists == "root":
        for name, lines in everything.items():
            (root / name).write_text("".join(lines) + "one\ntwo words\n")
    return root


@pytest.mark.parametrize("lists", ["category", "root"])
def test_records(tmp_path, lists):
    raw = write_raw(tmp_path / "raw", lists=lists)
    images.write_image(raw / "dresses/pose/000003_0.png", tiny.pose_map(0))
    report = build_records(raw, tmp_path / "out", dataset="dresscode")
    assert report.built_per_split == {"train": 6, "test": 6} and report.skipped == []
    train, test = (open_records(tmp_path / "out", split) for split in ("train", "test"))
    records = {r.key: r for r in [*(train[i] for i in range(6)), *(test[i] for i in range(6))]}
    assert len(records) == 12
    record = records["dresses_000003_0"]
    assert (record.split, record.category, record.garment_source) == ("test", "dress", "in_shop")
    assert record.unpaired_garment_key == "dresses_000002_1" and record.has_pose
    assert record.unpaired_garment == (raw / "dresses/images/000002_1.jpg").read_bytes()
    assert record.garment == (raw / "dresses/images/000003_1.jpg").read_bytes()
    assert records["lower_body_000000_0"].category == "lower"
    assert records["upper_body_000000_0"].unpaired_garment_key == ""
    x = tiny.FACE_CENTRE_PX[0]
    left, _, right, _ = record.face_box_px
    assert (left, right) == pytest.approx((x - 9.5, x + 9.5), abs=0.01)
    odd = [line for line in report.warnings if "_pairs" in line]
    assert len(odd) == (6 if lists == "root" else 0)
    told = "train_pairs.txt: 1 lines without a category (two words)"
    assert (told in odd) == (lists == "root")


def test_keypoints_are_scaled_to_the_photo(tmp_path):
    path = tmp_path / "k.json"
    write_points(path, tiny.keypoints(18))
    rows = read_keypoints(path, (WIDTH_PX, HEIGHT_PX)).rows
    np.testing.assert_allclose(rows, tiny.keypoints(25), atol=1e-9)
    # the frame is that of the layout, not of a picture of another aspect
    doubled = read_keypoints(path, (3 * WIDTH_PX, 2 * HEIGHT_PX)).rows
    np.testing.assert_allclose(doubled, tiny.keypoints(25) * [3, 2, 1], atol=1e-9)


def test_missing_garments_are_cut_out_by_category(tmp_path):
    raw = write_raw(tmp_path)
    for folder, category in zip(NUMBERS, ("upper", "lower", "dress"), strict=True):
        (raw / folder / "images/000001_1.jpg").unlink()
        items = DressCode.list_items(str(raw), [])["train"]
        item = next(item for item in items if item.key == f"{folder}_000001_0")
        record, flaws = DressCode.read(item)
        assert (record.garment_source, record.category) == ("worn", category)
        worn = images.read_rgb(record.garment)
        np.testing.assert_allclose(worn[32, 24], tiny.colour(1), atol=6)
        assert any("no in-shop garment" in flaw for flaw in flaws)
    (raw / "dresses/label_maps/000001_4.png").unlink()
    items = DressCode.list_items(str(raw), [])["train"]
    with pytest.raises(OmfaError, match="no label map to cut"):
        DressCode.read(items[-1])


def test_lists_that_are_not_there(tmp_path):
    raw = write_raw(tmp_path)
    (raw / "dresses/test_pairs_paired.txt").unlink()
    for path in (raw / "lower_body").glob("*.txt"):
        path.unlink()
    warnings = []
    splits = DressCode.list_items(str(raw), warnings)
    keys = {split: [item.key for item in items] for split, items in splits.items()}
    assert [key for key in keys["test"] if "dresses" in key] == [
        "dresses_000002_0",
        "dresses_000003_0",
    ]
    assert [key for key in keys["train"] if "lower" in key] == [
        f"lower_body_{i:06d}_0" for i in range(4)
    ]
    assert len(warnings) == 1 and "lower_body: no train_pairs.txt" in warnings[0]
    assert all(item.garment is not None for items in splits.values() for item in items)
