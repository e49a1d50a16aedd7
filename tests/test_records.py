"""Raw folders become records: what is kept and skipped; a build is whole or absent."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_viton as tiny
from PIL import Image

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.records_builder import format_build_report
from omfa_jax.data.records import finalize, record_schema
from omfa_jax.data.records.record_schema import open_records

HEIGHT_PX, WIDTH_PX = tiny.HEIGHT_PX, tiny.WIDTH_PX


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.write_raw(tmp_path_factory.mktemp("raw"), {"train": 4, "val": 2, "test": 3})


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "records"
    return out, build_records(raw, out)


@pytest.fixture
def small(tmp_path):
    return tiny.write_raw(tmp_path / "raw", {"train": 3})


def _records(folder, split="train"):
    source = open_records(folder, split)
    return {source[i].key: source[i] for i in range(len(source))}


def test_every_item_becomes_one_record_in_order(built):
    out, report = built
    assert (report.found, report.built, report.skipped, report.warnings) == (9, 9, [], [])
    assert report.built_per_split == {"train": 4, "val": 2, "test": 3}
    assert record_schema.read_manifest(out)["splits"] == report.built_per_split
    assert list(_records(out)) == ["00000_00", "00001_00", "00002_00", "00003_00"]


def test_record_fields(raw, built):
    record = open_records(built[0], "test")[1]
    assert (record.key, record.split, record.category) == ("00001_00", "test", "upper")
    assert (record.height_px, record.width_px) == (HEIGHT_PX, WIDTH_PX)
    assert (record.has_pose, record.has_face, record.garment_source) == (True, True, "in_shop")
    assert record.face_box_px == pytest.approx((14.5, 4.52, 33.5, 23.52))
    # plain JPEGs and PNGs are stored untouched
    for encoded, place in (
        (record.person, "image/00001_00.jpg"),
        (record.garment, "cloth/00001_00.jpg"),
        (record.pose, "pose/00001_00.png"),
        (record.unpaired_garment, "cloth/00002_00.jpg"),
    ):
        assert encoded == (raw / "test" / place).read_bytes()
    assert record.unpaired_garment_key == "00002_00"


def test_the_second_name_is_ignored_in_training(small):
    (small / "train_pairs.txt").write_text("00000_00.jpg 00002_00.jpg\n")
    build_records(small, small / "out")
    record = open_records(small / "out", "train")[0]
    assert record.garment == (small / "train/cloth/00000_00.jpg").read_bytes()
    assert (record.unpaired_garment_key, record.unpaired_garment) == ("", b"")


def test_source_is_a_sequence_with_clear_errors(built):
    source = open_records(built[0], "val")
    assert len(source) == 2 and source[np.int64(1)].key == "00001_00"
    assert [record.key for record in source] == ["00000_00", "00001_00"]
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    assert len(repr(source[0])) < 500
    with pytest.raises(OmfaError, match="did you mean 'val'"):
        open_records(built[0], "vall")


def test_tfds_itself_reads_the_folder(built):
    builder: Any = tfds.builder_from_directory(built[0] / "viton_hd" / "1.0.0")
    example = builder.as_data_source(split="train")[2]
    assert example["key"] == b"00002_00" and builder.info.splits["train"].num_examples == 4


def test_no_tensorflow_is_needed(small):
    code = (
        "import sys\n"
        "from omfa_jax.data.builders.build_records import build_records\n"
        "from omfa_jax.data.records.record_schema import open_records\n"
        f"assert build_records({str(small)!r}, {str(small / 'out')!r}).built == 3\n"
        f"assert open_records({str(small / 'out')!r}, 'train')[0].key == '00000_00'\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_processes_change_nothing(raw, built, tmp_path):
    (tmp_path / "raw").symlink_to(raw)
    report = build_records(tmp_path / "raw", tmp_path / "out", processes=2)
    assert report == built[1]
    for split in ("train", "val", "test"):
        assert _records(tmp_path / "out", split) == _records(built[0], split)


def test_older_folder_names_and_missing_pose_maps(tmp_path):
    raw = tiny.write_raw(tmp_path / "raw", {"test": 2}, pose=False)
    (raw / "test/image-parse-v3").rename(raw / "test/image-parse")
    (raw / "test/openpose_json").rename(raw / "test/openpose-json")
    report = build_records(raw, tmp_path / "out")
    record = open_records(tmp_path / "out", "test")[0]
    assert record.has_face and record.category == "upper"
    assert not record.has_pose and record.pose == b""
    assert report.warnings == ["test: 2 (00000_00, 00001_00) of 2 records: no pose map"]


def test_body_18_keypoints_and_then_the_parse_map_give_the_face(small):
    folder = small / "train/openpose_json"
    tiny.write_keypoints(folder / "00000_00_keypoints.json", tiny.keypoints(18))
    (folder / "00001_00_keypoints.json").unlink()
    (folder / "00002_00_keypoints.json").write_text("{")
    report = build_records(small, small / "out")
    boxes = [record.face_box_px for record in _records(small / "out").values()]
    assert boxes[0] == pytest.approx((14.5, 4.52, 33.5, 23.52))
    assert boxes[1] == boxes[2] != boxes[0]
    assert any("1 (00001_00) of 3 records: no keypoints" in line for line in report.warnings)
    assert any("1 (00002_00) of 3 records: unusable keypoints" in line for line in report.warnings)


def test_a_missing_shop_photo_is_replaced_by_the_worn_garment(small):
    (small / "train/cloth/00001_00.jpg").unlink()
    report = build_records(small, small / "out")
    record = _records(small / "out")["00001_00"]
    assert record.garment_source == "worn"
    worn = images.read_rgb(record.garment)
    assert worn.shape == (HEIGHT_PX, WIDTH_PX, 3)
    np.testing.assert_allclose(worn[32, 24], tiny.colour(1), atol=4)
    assert (worn[:3] > 240).all() and (worn[-3:] > 240).all()
    assert "no in-shop garment" in report.warnings[0]


def test_bad_items_are_skipped_with_reasons(tmp_path):
    raw = tiny.write_raw(tmp_path / "raw", {"train": 8, "val": 1})
    folder = raw / "train"
    photo = folder / "image/00000_00.jpg"
    photo.write_bytes(photo.read_bytes()[:400])
    (folder / "image/00001_00.jpg").write_bytes(b"")
    (folder / "image/00002_00.jpg").unlink()
    (folder / "cloth/00003_00.jpg").write_bytes(b"not a picture")
    (folder / "cloth/00004_00.jpg").unlink()
    (folder / "image-parse-v3/00004_00.png").unlink()
    (folder / "cloth/00005_00.jpg").unlink()
    tiny.write_labels(folder / "image-parse-v3/00005_00.png", np.zeros((64, 48), np.uint8))
    report = build_records(raw, tmp_path / "out")
    reasons = dict(report.skipped)
    expected = [
        "damaged",
        "empty",
        "found nothing",
        "not an image",
        "no parse map",
        "shows no garment to cut out",
    ]
    assert list(reasons) == [f"train/{i:05d}_00" for i in range(6)]
    for reason, word in zip(reasons.values(), expected, strict=True):
        assert word in reason and "\n" not in reason
    assert (report.found, report.built) == (9, 3)
    assert list(_records(tmp_path / "out")) == ["00006_00", "00007_00"]
    assert "found 9, built 3 (train 2, val 1)" in format_build_report(report)
    assert "skipped train/00002_00: person photo" in format_build_report(report)


def test_flaws_that_do_not_cost_the_record(tmp_path):
    raw = tiny.write_raw(tmp_path / "raw", {"test": 3})
    (raw / "test/pose/00000_00.png").write_bytes(b"")
    (raw / "test/image-parse-v3/00001_00.png").write_bytes(b"")
    pairs = "00000_00.jpg gone.jpg\r\n\n00001_00.jpg 00002_00.jpg\n00001_00.jpg 00000_00.jpg\nodd\n"
    (raw / "test_pairs.txt").write_text("\ufeff" + pairs, "utf-8")
    report = build_records(raw, tmp_path / "out")
    records = _records(tmp_path / "out", "test")
    assert list(records) == ["00000_00", "00001_00"] and report.skipped == []
    assert not records["00000_00"].has_pose and records["00000_00"].unpaired_garment == b""
    assert records["00001_00"].unpaired_garment_key == "00002_00"
    assert records["00001_00"].category == "" and records["00001_00"].has_face
    text = "\n".join(report.warnings)
    for word in ("damaged pose", "damaged parse", "unpaired garment's file", "twice", "line 5"):
        assert word in text


def test_photos_are_upright_rgb_whatever_they_were(small):
    path = small / "train/image/00000_00.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(tiny.photo(0)).copy())
    turned.save(path, exif=exif, quality=100, subsampling=0)
    Image.fromarray(tiny.photo(1)).convert("CMYK").save(small / "train/image/00001_00.jpg")
    build_records(small, small / "out")
    for number, record in enumerate(list(_records(small / "out").values())[:2]):
        stored = images.open_image(record.person)
        assert (stored.mode, images.get_exif_orientation(stored)) == ("RGB", 1)
        difference = np.array(stored).astype(int) - tiny.photo(number)
        assert np.abs(difference).mean() < 4


def test_no_pairs_file_means_every_photo(small):
    (small / "train_pairs.txt").unlink()
    (small / "train/image/._00000_00.jpg").write_bytes(b"macOS")
    report = build_records(small, small / "out")
    assert (report.found, report.built) == (3, 3) and "no train_pairs.txt" in report.warnings[0]


def test_a_folder_that_is_not_viton_hd(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(OmfaError, match=r"expected the layout of a data set.*found photos"):
        build_records(tmp_path, tmp_path / "out")
    with pytest.raises(OmfaError, match="--raw"):
        build_records(tmp_path / "gone", tmp_path / "out")
    with pytest.raises(OmfaError, match="did you mean 'viton_hd'"):
        build_records(tmp_path, tmp_path / "out", dataset="viton-hd")


def test_nothing_built_is_an_error_and_leaves_nothing(small):
    for photo in (small / "train/image").iterdir():
        photo.write_bytes(b"")
    with pytest.raises(OmfaError, match="none of the 3 items"):
        build_records(small, small / "out/records")
    assert list((small / "out").iterdir()) == []


def test_an_interrupted_build_is_not_taken_for_records(small, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finalize.record_schema, "write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_records(small, small / "out/records")
    with pytest.raises(OmfaError, match="expected a folder"):
        open_records(small / "out/records", "train")
    assert build_records(small, small / "out/records").built == 3
    assert [path.name for path in (small / "out").iterdir()] == ["records"]


def test_only_records_are_ever_replaced(small, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OmfaError, match="not records"):
            build_records(small, out, overwrite=overwrite)
    assert (out / "thesis.tex").read_text() == "mine"
    (out / "thesis.tex").unlink()
    build_records(small, out)
    with pytest.raises(OmfaError, match="--overwrite"):
        build_records(small, out)
    (small / "train_pairs.txt").write_text("00002_00.jpg 00002_00.jpg\n")
    assert build_records(small, out, overwrite=True).built == 1
    assert len(open_records(out, "train")) == 1


def test_an_incomplete_folder_is_not_taken_for_records(built, tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(OmfaError, match="not a complete records folder"):
        open_records(tmp_path / "half", "train")
    (tmp_path / "half" / record_schema.MANIFEST).write_text(
        (built[0] / record_schema.MANIFEST).read_text()
    )
    with pytest.raises(OmfaError, match="cannot be read"):
        open_records(tmp_path / "half", "train")
