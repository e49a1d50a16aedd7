"""What is cut out of photos, and sheets to look at."""

import dataclasses

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core import images
from omfa_jax.data.builders import label_sets
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.garment_cutout import cut_out_garment
from omfa_jax.data.records import contact_sheet, record_schema

HEIGHT_PX, WIDTH_PX = tiny.HEIGHT_PX, tiny.WIDTH_PX


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("sheets")
    build_records(tiny.write_raw(root / "raw", {"test": 3}), root / "records")
    return root / "records"


def test_worn_garment_is_cut_exactly():
    photo, parse_map = tiny.photo(3), tiny.label_map()
    worn = cut_out_garment(photo, parse_map, label_sets.CIHP, "upper")
    # 26 x 21 px of garment plus 1 px of margin, fitted into 64 x 48 px
    assert images.compute_letterbox_box((28, 23), HEIGHT_PX, WIDTH_PX) == (3, 0, 58, 48)
    inside = worn[12:52, 9:39].reshape(-1, 3)
    assert (inside == tiny.colour(3)).all()
    assert (worn[:3] == 255).all() and (worn[61:] == 255).all()
    half = parse_map[::2, ::2]
    np.testing.assert_allclose(
        cut_out_garment(photo, half, label_sets.CIHP, "upper")[32, 24], tiny.colour(3)
    )
    bare = np.where(label_sets.CIHP.make_garment_mask(parse_map, "upper"), 9, parse_map)
    bare = bare.astype(np.uint8)
    assert cut_out_garment(photo, bare, label_sets.CIHP, "upper") is None
    assert cut_out_garment(photo, bare, label_sets.CIHP, "lower") is not None


def test_a_sheet_shows_what_records_hold(records, tmp_path):
    sheet = contact_sheet.write_contact_sheet(
        records, tmp_path / "sheet.png", split="test", cell_px=(64, 48)
    )
    assert sheet.shape == (
        3 * (64 + contact_sheet.CAPTION_PX + contact_sheet.GAP_PX),
        5 * (48 + contact_sheet.GAP_PX),
        3,
    )
    np.testing.assert_array_equal(images.read_rgb(tmp_path / "sheet.png"), sheet)
    row = sheet[contact_sheet.CAPTION_PX : contact_sheet.CAPTION_PX + 64]
    np.testing.assert_allclose(row[32, 52 + 24], tiny.colour(0), atol=6)
    over = 0.4 * np.array(tiny.colour(0)) + 0.6 * tiny.pose_map(0)[32, 24]
    np.testing.assert_allclose(row[32, 3 * 52 + 24], over, atol=6)
    np.testing.assert_allclose(row[2, 3 * 52 + 2], tiny.GROUND, atol=6)


def test_captions_stand_under_their_rows(records, monkeypatch, tmp_path):
    source = record_schema.open_records(records, "test")
    told = [dataclasses.replace(source[0], caption="A top."), source[1]]
    monkeypatch.setattr(contact_sheet.record_schema, "open_records", lambda *_: told)
    sheet = contact_sheet.write_contact_sheet(
        records, tmp_path / "s.png", split="test", cell_px=(64, 48)
    )
    height = 64 + contact_sheet.CAPTION_PX + contact_sheet.GAP_PX
    assert len(sheet) == 2 * height + contact_sheet.CAPTION_PX
    assert (sheet[height : height + contact_sheet.CAPTION_PX] < 128).any()
