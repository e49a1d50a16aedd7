"""A sound folder passes, raw or as records; every kind of fault is named and counted."""

import dataclasses
import functools
import json
import pickle

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.cli.main import main
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders import check_raw
from omfa_jax.data.builders.build_records import BUILDERS, build_records
from omfa_jax.data.builders.label_sets import CIHP
from omfa_jax.data.checks.check_records import CheckReport, check_records, format_check_report
from omfa_jax.data.checks.record_faults import FAULT_KINDS, find_mask_faults, is_empty
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import record_schema

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}


def write_raw(root, **counts):
    """Write tiny people before walls of their own: alike ones would be found to be duplicates."""
    tiny.write_raw(root, counts)
    for number, path in enumerate(sorted(root.glob("*/image/*.jpg"))):
        wall = np.random.default_rng(number).integers(0, 255, (4, 3, 3), np.uint8)
        picture = images.read_rgb(path)
        behind = tiny.label_map() == CIHP.ids["background"]
        picture[behind] = np.kron(wall, np.ones((16, 16, 1), np.uint8))[behind]
        images.write_image(path, picture)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("check")
    build_records(write_raw(root / "raw", train=2, test=2), root / "records")

    def shrink(pictures):
        return pictures[:, ::8, ::8]

    write_latents(root / "records", root / "latents", shrink, slots=SLOTS, vae_id="shrink")
    return root / "records", root / "latents"


def test_sound_folders_have_no_faults(folders):
    for folder in folders:
        assert check_records(folder) == CheckReport(4)
    assert format_check_report(check_records(folders[0])) == "checked 4: no faults"


def test_a_wrong_count_is_a_fault(folders, tmp_path):
    copy = tmp_path / "records"
    copy.mkdir()
    (copy / "viton_hd").symlink_to(folders[0] / "viton_hd")
    manifest = record_schema.read_manifest(folders[0])
    manifest["splits"]["test"] = 5
    (copy / record_schema.MANIFEST).write_text(json.dumps(manifest))
    assert check_records(copy).faults == ("test: expected 5 records as in the manifest, found 2",)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"person": b"broken"}, "not an image"),
        ({"garment": b""}, "empty"),
        ({"pose": b""}, "empty"),
        ({"unpaired_garment": b"?"}, "not an image"),
        ({"height_px": 3}, "the record says"),
        ({"face_box_px": (5.0, 5.0, 5.0, 9.0)}, "face box"),
        ({"key": "00001_00"}, "twice"),
        ({"garment": images.encode_png(np.full((64, 48, 3), 254, np.uint8))}, "is blank"),
        ({"pose": images.encode_png(np.zeros((64, 48, 3), np.uint8))}, "body covers 0.00%"),
        ({"pose": images.encode_png(tiny.pose_map(0)[:32])}, "pose map of 48x32 px"),
    ],
)
def test_damaged_picture_records_are_named(folders, monkeypatch, changes, word):
    _assert_one_fault(folders[0], monkeypatch, changes, word)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"garment": b"12"}, "has 1 values, expected 144"),
        ({"has_pose": False}, "pose has 144 values, expected 0"),
        ({"face": np.full(12, np.nan, "<f2").tobytes()}, "not finite"),
    ],
)
def test_damaged_latents_are_named(folders, monkeypatch, changes, word):
    _assert_one_fault(folders[1], monkeypatch, changes, word)


def test_an_unreadable_record_does_not_end_the_check(folders, monkeypatch):
    class Unreadable(list):
        def __getitem__(self, index):
            raise OmfaError("records:train: record 0 cannot be read (bad checksum)")

    monkeypatch.setattr(record_schema, "open_records", lambda *_, **__: Unreadable([0, 0]))
    report = check_records(folders[0])
    assert (
        report.checked == 4
        and "train/0: records:train: record 0 cannot be read" in report.faults[0]
    )


def test_a_photo_in_two_splits_is_a_shared_person(folders, monkeypatch):
    train, test = (
        list(record_schema.open_records(folders[0], split)) for split in ("train", "test")
    )
    person = {"person": train[1].person, "key": "again"}
    by_split = {"train": [*train, dataclasses.replace(train[0], key="twin")]}
    by_split["test"] = [dataclasses.replace(test[0], **person), test[1]]
    monkeypatch.setattr(record_schema, "open_records", lambda _, split, **__: by_split[split])
    report = check_records(folders[0])
    assert report.get_findings("duplicate") == [
        "all splits: twin (train) duplicates 00000_00 (train), 0 bits apart"
    ]
    assert "again (test) duplicates 00001_00 (train)" in report.get_findings("shared_person")[0]


def test_a_person_in_two_splits_is_found_by_name(folders, monkeypatch):
    split_records = {
        split: [
            dataclasses.replace(r, person_id="p7")
            for r in record_schema.open_records(folders[0], split)
        ]
        for split in ("train", "test")
    }
    monkeypatch.setattr(record_schema, "open_records", lambda _, split, **__: split_records[split])
    assert check_records(folders[0]).faults == ("all splits: p7 is in test and train",)


def test_summary_counts_by_kind_and_shortens_long_lists():
    report = CheckReport(30)
    report.add("train/1", [("no_face", "white")] + [("missing", str(i)) for i in range(25)])
    lines = format_check_report(report).splitlines()
    assert lines[0] == "checked 30: 25 faults"
    assert lines[1] == "missing, photos and garments without a file: 25"
    assert "  ... and 20 more" in lines and "no_face" in lines[-2] and "(no fault)" in lines[-2]


def test_a_sound_raw_folder_has_no_faults(tmp_path):
    raw = write_raw(tmp_path / "raw", train=3, test=2)
    assert check_raw.check_raw(raw) == CheckReport(5)
    assert main(["data", "check", "--raw", str(raw)]) == 0


def test_every_kind_of_fault_in_a_raw_folder_is_named_and_counted(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", train=14, test=2)
    train = raw / "train"
    images.write_image(train / "cloth-mask" / "00000_00.jpg", np.full((64, 48), 128, np.uint8))
    (train / "image" / "00001_00.jpg").write_bytes(
        (train / "image" / "00001_00.jpg").read_bytes()[:300]
    )
    (train / "image" / "00002_00.jpg").unlink()
    (train / "cloth" / "00003_00.jpg").unlink()
    (train / "image-parse-v3" / "00004_00.png").unlink()
    images.write_image(train / "image-parse-v3" / "00005_00.png", tiny.label_map() + 180)
    images.write_image(train / "image-parse-v3" / "00006_00.png", tiny.label_map()[::2, ::2])
    images.write_image(train / "cloth" / "00007_00.jpg", np.full((64, 48, 3), 250, np.uint8))
    images.write_image(train / "pose" / "00008_00.png", np.zeros((64, 48, 3), np.uint8))
    whole = images.read_rgb(train / "image" / "00009_00.jpg")
    images.write_image(raw / "test" / "image" / "00000_00.jpg", whole)
    images.write_image(
        train / "image" / "00010_00.jpg", images.read_rgb(train / "image" / "00011_00.jpg")
    )
    (train / "openpose_json" / "00012_00_keypoints.json").write_text("{")
    images.write_image(train / "image-parse-v3" / "00012_00.png", np.zeros((64, 48), np.uint8))
    images.write_image(
        train / "image" / "00013_00.jpg",
        np.kron(images.read_rgb(train / "image" / "00013_00.jpg"), np.ones((2, 2, 1), np.uint8)),
    )
    found = check_raw.check_raw(raw).findings
    expected = {
        "unreadable": ["train/00001_00", "train/00012_00"],
        "missing": ["train/00002_00", "train/00003_00"],
        "absent": ["train/00004_00"],
        "wrong_size": ["train/00006_00", "train/00013_00", "all photos: train/00013_00"],
        "grey_mask": ["train/00000_00: cloth-mask: 100%"],
        "label_set": ["train/00005_00"],
        "empty_garment": ["train/00007_00"],
        "no_face": ["train/00012_00"],
        "out_of_frame": ["train/00008_00"],
        "shared_person": [
            "all splits: test/image/00000_00.jpg (test) duplicates train/image/00009_00.jpg"
        ],
        "duplicate": ["all splits: train/image/00011_00.jpg (train) duplicates"],
    }
    assert set(found) == set(expected)
    for kind, starts in expected.items():
        assert len(found[kind]) == len(starts), found[kind]
        for start in starts:
            assert any(line.startswith(start) for line in found[kind]), (start, found[kind])
    assert main(["data", "check", "--raw", str(raw)]) == 2
    assert "faults, listed above" in capsys.readouterr().err
    # what goes to worker processes and comes back
    item = BUILDERS["viton_hd"].list_items(str(raw), [])["train"][5]
    look, item = pickle.loads(
        pickle.dumps((functools.partial(check_raw.inspect_item, "viton_hd"), item))
    )
    outcome = look(item)
    assert pickle.loads(pickle.dumps(outcome)) == outcome and outcome.findings


def test_maps_of_lip_are_told_from_cihps(tmp_path):
    """The two label sets share all ids but 10: no torso skin in any map is what gives LIP away."""
    raw = write_raw(tmp_path / "raw", train=20)
    assert "label_set" in check_raw.check_raw(raw).findings
    assert not check_raw.check_raw(raw, parse_labels="lip").findings
    for path in (raw / "train" / "image-parse-v3").iterdir():
        labels = tiny.label_map()
        labels[22:25, 20:29] = CIHP.ids["torso_skin"]
        images.write_image(path, labels)
    assert not check_raw.check_raw(raw).findings
    assert (
        "LIP's jumpsuits"
        in check_raw.check_raw(raw, parse_labels="lip").get_findings("label_set")[0]
    )


def test_greys_at_a_masks_edge_are_no_fault():
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 50:] = 255
    mask[:, 49] = 128
    assert not list(find_mask_faults(mask))
    mask[:, 40:49] = 128
    assert [kind for kind, _ in find_mask_faults(mask)] == ["grey_mask"]
    noise = np.random.default_rng(0).integers(250, 256, (20, 20, 3), np.uint8)
    assert is_empty(noise) and not is_empty(tiny.garment(0))


def test_an_unknown_folder_says_what_was_expected(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    assert main(["data", "check", "--raw", str(tmp_path)]) == 2
    assert "viton_hd, deepfashion_multimodal, dresscode" in capsys.readouterr().err
    assert set(FAULT_KINDS) >= {"grey_mask", "label_set"}


def _assert_one_fault(folder, monkeypatch, changes, word):
    source = record_schema.open_records(folder, "test")
    records = [dataclasses.replace(source[0], **changes), source[1]]
    sound = list(record_schema.open_records(folder, "train"))
    by_split = {"train": sound, "test": records}
    monkeypatch.setattr(record_schema, "open_records", lambda _, split, **__: by_split[split])
    faults = check_records(folder).faults
    assert len(faults) == 1 and word in faults[0] and faults[0].startswith("test/0000")
