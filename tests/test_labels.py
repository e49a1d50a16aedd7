"""Label sets: the ids, what is worn where, and the traps between sets."""

import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders import face_box, label_sets
from omfa_jax.data.builders.garment_cutout import cut_out_garment
from omfa_jax.data.builders.label_sets import ATR, CIHP, DEEPFASHION, LABEL_SETS, LIP


def painted(*shares):
    """Return a 10x100 map whose columns show the ids for the given shares of it."""
    columns = np.concatenate([np.full(count, number) for number, count in shares])
    return np.tile(columns.astype(np.uint8), (10, 1))


@pytest.mark.parametrize(
    ("label_set", "count", "places"),
    [
        (CIHP, 20, {"hair": 2, "upper": 5, "dress": 6, "coat": 7, "pants": 9, "face": 13}),
        (LIP, 20, {"hair": 2, "upper": 5, "dress": 6, "coat": 7, "skirt": 12, "face": 13}),
        (ATR, 18, {"hair": 2, "upper": 4, "skirt": 5, "pants": 6, "dress": 7, "face": 11}),
        (DEEPFASHION, 24, {"top": 1, "dress": 4, "hair": 13, "face": 14, "tie": 23}),
    ],
)
def test_ids(label_set, count, places):
    assert sorted(label_set.ids.values()) == list(range(count))
    assert {name: label_set.ids[name] for name in places} == places
    assert set(label_set.garments) == {"upper", "lower", "dress"}
    for names in (*label_set.garments.values(), label_set.face, label_set.hair):
        assert names and set(names) <= set(label_set.ids)
    worn = [name for names in label_set.garments.values() for name in names]
    assert len(worn) == len(set(worn))


def test_ten_is_skin_in_cihp_and_jumpsuits_in_lip():
    assert CIHP.ids["torso_skin"] == LIP.ids["jumpsuits"] == 10
    assert {name: number for name, number in CIHP.ids.items() if number != 10} == {
        name: number for name, number in LIP.ids.items() if number != 10
    }
    parse = painted((0, 40), (10, 50), (13, 10))
    assert CIHP.find_category(parse) == "" and LIP.find_category(parse) == "dress"
    photo = np.full((10, 100, 3), 7, np.uint8)
    # taken for the other set, bare skin would be sold as a jumpsuit
    assert cut_out_garment(photo, parse, CIHP, "dress") is None
    assert cut_out_garment(photo, parse, LIP, "dress") is not None


def test_category_is_the_largest_area():
    parse = painted((0, 20), (5, 20), (7, 15), (9, 30), (6, 15))
    assert CIHP.find_category(parse) == "upper"
    assert CIHP.find_category(parse, ("lower", "dress")) == "lower"
    assert CIHP.find_category(parse, least_area=0.4) == ""
    assert DEEPFASHION.find_category(painted((0, 50), (21, 30), (5, 20))) == "dress"
    assert ATR.find_category(painted((0, 50), (5, 30), (4, 20))) == "lower"


def test_ids_of_another_set_are_told():
    with pytest.raises(OmfaError, match=r"expected CIHP label ids \(0 to 19\), found 23"):
        CIHP.require_known_ids(painted((0, 90), (23, 10)), "parse map")
    with pytest.raises(OmfaError, match="255"):
        DEEPFASHION.require_known_ids(painted((0, 90), (255, 10)), "parse map")
    # OOTDiffusion's neck
    ATR.require_known_ids(painted((0, 90), (18, 10)), "label map")
    with pytest.raises(OmfaError, match="did you mean 'cihp'"):
        label_sets.get_label_set("chip")
    assert label_sets.get_label_set("lip") is LABEL_SETS["lip"]


def test_the_same_head_gives_the_same_face_box_in_every_set():
    heads = {}
    for label_set in (CIHP, LIP, DEEPFASHION):
        parse = np.zeros((100, 80), np.uint8)
        parse[10:40, 25:55] = label_set.ids["hair"]
        parse[18:44, 30:50] = label_set.ids["face"]
        heads[label_set.name] = face_box.find_box_from_labels(parse, 100, 80, label_set)
    assert len(set(heads.values())) == 1
    # ATR has the neck under the face: 1.3 widths below its top a face ends
    parse = np.zeros((100, 80), np.uint8)
    parse[10:40, 25:55] = ATR.ids["hair"]
    parse[18:60, 30:50] = ATR.ids["face"]
    box = face_box.find_box_from_labels(parse, 100, 80, ATR)
    assert box == pytest.approx(heads["CIHP"], abs=2)
