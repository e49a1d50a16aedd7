"""A sound records folder passes; every kind of damage is named."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.data import check, schema
from omfa_jax.data.build import build
from omfa_jax.data.check import CheckReport, check_records, summary
from omfa_jax.data.latents import write_latents

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("check")
    build(tiny.write_raw(root / "raw", {"train": 2, "test": 2}), root / "records")

    def shrink(pictures):
        return pictures[:, ::8, ::8]

    write_latents(root / "records", root / "latents", shrink, slots=SLOTS, vae_id="shrink")
    return root / "records", root / "latents"


def test_sound_folders_have_no_faults(folders):
    for folder in folders:
        assert check_records(folder) == CheckReport(4, ())
    assert summary(check_records(folders[0])) == "checked 4 records: no faults"


def test_a_wrong_count_is_a_fault(folders, tmp_path):
    copy = tmp_path / "records"
    copy.mkdir()
    (copy / "viton_hd").symlink_to(folders[0] / "viton_hd")
    manifest = schema.read_manifest(folders[0])
    manifest["splits"]["test"] = 5
    (copy / schema.MANIFEST).write_text(json.dumps(manifest))
    assert check_records(copy).faults == ("test: the manifest says 5 records, there are 2",)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"person": b"broken"}, "not a picture"),
        ({"garment": b""}, "empty"),
        ({"pose": b""}, "empty"),
        ({"unpaired_garment": b"?"}, "not a picture"),
        ({"height_px": 3}, "the record says"),
        ({"face_box_px": (5.0, 5.0, 5.0, 9.0)}, "face box"),
        ({"key": "00001_00"}, "twice"),
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
            raise RuntimeError("bad\nchecksum")

    monkeypatch.setattr(check.schema, "open_records", lambda *_: Unreadable([0, 0]))
    report = check_records(folders[0])
    assert report.checked == 4 and "train/0: cannot be read: bad checksum" in report.faults[0]


def test_summary_shortens_long_lists():
    text = summary(CheckReport(30, tuple(map(str, range(25)))))
    assert text.splitlines()[0] == "checked 30 records: 25 faults"
    assert text.splitlines()[-1] == "... and 5 more"


def _assert_one_fault(folder, monkeypatch, changes, word):
    source = schema.open_records(folder, "test")
    records = [dataclasses.replace(source[0], **changes), source[1]]
    sound = list(schema.open_records(folder, "train"))
    by_split = {"train": sound, "test": records}
    monkeypatch.setattr(check.schema, "open_records", lambda _, split: by_split[split])
    faults = check_records(folder).faults
    assert len(faults) == 1 and word in faults[0] and faults[0].startswith("test/0000")
