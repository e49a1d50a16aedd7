"""Build, check, fit and sample ask whose picture the keypoints are of, in the same words."""

import argparse
import json
import logging

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.body.fit.fit_folder import FitFolderReport
from omfa_jax.body.keypoints.keypoint_reader import NoPersonError, OtherSizeError
from omfa_jax.cli import datasets, fit, sample
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.check_raw import check_raw
from omfa_jax.data.checks.check_records import format_check_report
from omfa_jax.data.records.record_schema import open_records
from omfa_jax.sampling.photo_files import (
    PersonFiles,
    find_face,
    find_files_beside,
    read_photo_keypoints,
)

PLAIN_BOX = (14.5, 4.52, 33.5, 23.52)


@pytest.fixture
def raw(tmp_path):
    """Five people: plain, of another size, of another aspect, two in one file, nobody."""
    root = tiny.write_raw(tmp_path / "raw", {"train": 5})
    small = tiny.keypoints() * [0.5, 0.5, 1] + [0, 30, 0] * (tiny.keypoints()[:, 2:] > 0)
    flat = [rows.ravel().tolist() for rows in (tiny.keypoints(), small)]
    people = {
        1: {"people": [{"pose_keypoints_2d": (tiny.keypoints() * [4, 4, 1]).ravel().tolist()}]},
        2: {"people": [{"pose_keypoints_2d": flat[0]}], "canvas_width": 64, "canvas_height": 48},
        3: {"people": [{"pose_keypoints_2d": rows} for rows in reversed(flat)]},
        4: {"people": []},
    }
    for number, document in people.items():
        path = root / f"train/openpose_json/{number:05d}_00_keypoints.json"
        path.write_text(json.dumps(document))
    return root


def test_build_counts_what_it_does_not_use(raw, tmp_path):
    report = build_records(raw, tmp_path / "records")
    assert [line for line in report.warnings if "keypoints" in line] == [
        "train: 1 (00001_00) of 5 records: keypoints of another size than the photo; not used",
        "train: 1 (00002_00) of 5 records: keypoints of another aspect ratio than the photo;"
        " not used",
        "train: 1 (00003_00) of 5 records: 2 people in the keypoints; the largest is used"
        " (--person-index chooses)",
        "train: 1 (00004_00) of 5 records: no person in the keypoints",
    ]
    boxes = [record.face_box_px for record in open_records(tmp_path / "records", "train")]
    assert boxes[0] == boxes[3] == pytest.approx(PLAIN_BOX)
    # the parse map's
    assert boxes[1] == boxes[2] == boxes[4] != boxes[0]


def test_a_chosen_person_is_built(raw, tmp_path):
    options = {"person_index": 0}
    report = build_records(raw, tmp_path / "records", item_options=options)
    left, top, right, _ = open_records(tmp_path / "records", "train")[3].face_box_px
    assert right - left == pytest.approx(19 / 2) and top > 30
    assert not [line for line in report.warnings if "people" in line]


def test_check_counts_the_kinds(raw):
    report = check_raw(raw)
    counts = {kind: len(found) for kind, found in report.findings.items()}
    assert counts == counts | {"keypoints": 2, "no_person": 1, "several_people": 1}
    text = format_check_report(report)
    assert (
        "keypoints, keypoints of another size, aspect ratio or name than their photo: 2\n" in text
    )
    assert "no_person, keypoints without a person: 1 (no fault)" in text
    assert "several_people, keypoints of several people: 1 (no fault)" in text
    assert not [fault for fault in report.faults if "people" in fault or "no person" in fault]


def test_sample_refuses_given_keypoints_and_passes_over_found_ones(raw, caplog):
    photos, files = raw / "train/image", raw / "train/openpose_json"

    def load(number, keypoints=None, **options):
        photo = str(photos / f"{number:05d}_00.jpg")
        files = PersonFiles(photo, keypoints=keypoints, **options)
        files = find_files_beside(files, "normals", null_pose=True)
        picture = read_rgb(photo)
        found = read_photo_keypoints(files, *picture.shape[:2])
        return find_face(files, picture, None if found is None else found.rows, required=True)

    other = str(files / "00001_00_keypoints.json")
    with pytest.raises(OtherSizeError, match="keypoints of another size than the photo"):
        load(0, other)
    nobody = str(files / "00004_00_keypoints.json")
    assert load(0, nobody).shape == load(1).shape
    assert f"{nobody}: no person in the keypoints; not used" in caplog.text
    with pytest.raises(NoPersonError):
        load(0, nobody, person_index=0)
    assert load(1).shape != load(0).shape
    assert f"{other}: keypoints of another size than the photo" in caplog.text
    assert "; not used" in caplog.text
    caplog.clear()
    assert load(3).shape == load(0).shape
    assert "00003_00_keypoints.json: 2 people in the keypoints; the largest" in caplog.text
    assert load(3, person_index=0).shape != load(0).shape
    with pytest.raises(OmfaError, match="--person-index 9: expected 0 to 1"):
        load(3, person_index=9)
    # other tools write NAME.json
    (files / "00000_00_keypoints.json").rename(files / "00000_00.json")
    np.testing.assert_array_equal(load(0), load(0, str(files / "00000_00.json")))


@pytest.mark.parametrize("index", [None, 0])
def test_fit_says_what_it_chose(raw, caplog, monkeypatch, index):
    read = {}

    def fit_nothing(fitter, photos, folder, *, photo_fitter, batch_size, overwrite, person_index):
        for name, reader in photos:
            try:
                read[name] = reader()[0][0].tolist()
            except OmfaError as error:
                read[name] = str(error)
        return FitFolderReport(1, 0, (), 0.0)

    monkeypatch.setattr("omfa_jax.body.fit.fit_folder.fit_folder", fit_nothing)
    parser = argparse.ArgumentParser()
    fit.add_arguments(parser)
    flags = [f"--raw={raw}", *([f"--person-index={index}"] if index is not None else [])]
    with caplog.at_level(logging.INFO):
        fit.run(parser.parse_args(flags))
    assert read["00000_00"] == [24, 18, 0.9]
    assert "keypoints of another size than the photo" in read["00001_00"]
    assert "keypoints of another aspect ratio" in read["00002_00"]
    assert read["00003_00"] == ([24, 18, 0.9] if index is None else [12, 39, 0.9])
    assert "no person in the keypoints" in read["00004_00"]
    said = "train: 1 photos (00003_00): 2 people in the keypoints; the largest is used"
    assert (said in caplog.text) == (index is None)


def test_keypoints_are_checked_where_no_record_can_be_built(raw):
    # no garment, and no parse map to cut one out: such folders are fitted all the same
    for folder in ("cloth", "image-parse-v3"):
        (raw / "train" / folder).rename(raw / folder)
    report = check_raw(raw)
    assert len(report.get_findings("keypoints")) == 2
    assert report.get_findings("no_person") == ["train/00004_00: no person in the keypoints"]
    (raw / "train/image/00001_00.jpg").write_bytes(b"no photo")
    assert len(check_raw(raw).get_findings("keypoints")) == 1


def test_the_flag_reaches_every_reader():
    def parse(module, *flags):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        return parser.parse_args([*flags, "--person-index=2"])

    assert datasets.get_item_options(parse(datasets)) == {"person_index": 2}
    assert parse(fit, "--raw=x").person_index == 2
    options = parse(sample, "--checkpoint=x", "--task=try_on", "--out=y", "--person=z")
    assert sample.make_request(options).person.person_index == 2
    assert options.source_person_index is None


def test_check_counts_keypoints_of_smaller_photos(tmp_path):
    root = tiny.write_raw(tmp_path / "raw", {"train": 1})
    corner = [value for at in range(25) for value in (3 + at % 5, 2 + at // 2, 0.9)]
    path = root / "train/openpose_json/00000_00_keypoints.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": corner}]}))
    report = check_raw(root)
    assert [line.partition(" of the")[0] for line in report.get_findings("keypoints")] == [
        "train/00000_00: keypoints in the upper left quarter"
    ]
    # depths in metres
    depths = [value + 1.5 * (i % 3 == 2) for i, value in enumerate(tiny.keypoints().ravel())]
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": depths}]}))
    (line,) = check_raw(root).get_findings("keypoints")
    assert line.startswith("train/00000_00: keypoints whose third numbers are all above 1")
