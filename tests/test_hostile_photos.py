"""Photos as people upload them, at a small size: found at the right place, or refused in one line.

The cases are those of `bench/hostile_photos.py`, whose table has what each says at full size.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from omfa_jax.body.landmarks import find_people, find_person, person_landmarks
from omfa_jax.core.errors import OmfaError

SCRIPT = Path(__file__).parents[1] / "bench" / "hostile_photos.py"
HEIGHT_PX = 256
NOBODY = (
    *("blank white", "noise", "garment 0", "garment 1", "empty file", "text called .jpg"),
    *("truncated JPEG", "1x1 px", "2x3000 px"),
)
# as small as 48x64 px, a third of the photo, turned by any angle, in any encoding
MOVED = (
    *("plain", "CMYK JPEG", "palette", "16 bits", "alpha", "really turned by 90 degrees"),
    *("upside down", "turned by EXIF", "tilted", "1/3 of the height", "48x64 px", "4 megapixels"),
)
PARTS = (
    "head cut off at the chin",
    "head and shoulders cut off",
    "legs only",
    "head only",
    "head and shoulders",
)


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_hostile_photos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def people(bench):
    return bench.render_people(HEIGHT_PX)


@pytest.fixture(scope="module")
def said(bench, people, tmp_path_factory):
    """{name: (case, what was said, shift in %)} of one photo of each kind."""
    folder = tmp_path_factory.mktemp("photos")
    plain = find_person(people[0], "plain")
    return {
        case.name: (case, *bench.look(case, folder, plain))
        for case in bench.make_cases(HEIGHT_PX, megapixels=(4,))
        if case.name in (*NOBODY, *MOVED, *PARTS)
    }


def test_nobody_is_found_where_nobody_is(said):
    empty = {name: said[name][1] for name in NOBODY}
    assert all(said[name][0].nobody for name in NOBODY)
    wrong = {name: text for name, text in empty.items() if " found: score" in text}
    assert not wrong
    assert all("\n" not in text for text in empty.values())
    assert "too small (1x1 px)" in empty["1x1 px"]
    assert "damaged image" in empty["truncated JPEG"]
    assert "no person found (best score 0.0" in empty["blank white"]


def test_person_is_where_the_photo_was_moved(said):
    found = {name: said[name][1:] for name in MOVED}
    lost = {name: text for name, (text, shift) in found.items() if shift is None}
    assert not lost
    far = {name: shift for name, (_, shift) in found.items() if shift > 2.5}
    assert not far
    assert found["plain"][1] == 0 and "score 1.00" in found["plain"][0]


def test_parts_of_people_are_refused_or_show_what_is_unsure(said):
    for name in ("head and shoulders cut off", "legs only"):
        assert "no person found" in said[name][1]
    assert "a body whose face is mostly outside of the photo" in said["head cut off at the chin"][1]
    for name in ("head only", "head and shoulders"):
        assert "of 4 of the trunk not" in said[name][1] or "no person found" in said[name][1]


def test_large_photo_is_reduced_and_points_are_mapped_back(people, monkeypatch):
    large = people[0].repeat(3, axis=0).repeat(3, axis=1)
    (whole,) = find_people(large)
    monkeypatch.setattr(person_landmarks, "MAX_SIDE_PX", HEIGHT_PX)
    (reduced,) = find_people(large)
    (small,) = find_people(people[0])
    np.testing.assert_allclose(reduced.points_px, 3 * small.points_px)
    np.testing.assert_allclose(reduced.box_px, 3 * np.array(small.box_px))
    np.testing.assert_allclose(reduced.world_m, small.world_m)
    assert np.median(np.linalg.norm(whole.points_px - reduced.points_px, axis=1)) < 8
    assert reduced.mask.shape == large.shape[:2]
    assert np.abs(reduced.mask[1::3, 1::3] - small.mask).mean() < 0.01


def test_largest_of_several_people_is_taken(people, caplog):
    small = people[1][::2, ::2]
    scene = np.full((HEIGHT_PX + len(small), 2 * people[0].shape[1], 3), 225, np.uint8)
    scene[: len(small), -small.shape[1] :] = small
    scene[len(small) :, : people[0].shape[1]] = people[0]
    both = np.concatenate([people[1], people[2]], axis=1)
    found = find_people(both)
    assert len(found) == 2
    areas = [(p.box_px[2] - p.box_px[0]) * (p.box_px[3] - p.box_px[1]) for p in found]
    assert areas[0] >= areas[1]
    person = find_person(both, "two.jpg")
    assert "two.jpg: 2 people found; the largest is used" in caplog.text
    np.testing.assert_array_equal(person.points_px, found[0].points_px)
    largest = find_people(scene)[0]
    # hips and what is above; legs are outside of the photo, and guessed
    expected = find_person(people[0], "one").points_px[:25]
    np.testing.assert_allclose(largest.points_px[:25] - (0, len(small)), expected, atol=8)


def test_contradicting_landmarks_are_refused(people, monkeypatch):
    assert find_people(people[0])
    monkeypatch.setattr(person_landmarks, "MIN_SURE", 34)
    assert find_people(people[0]) == []
    with pytest.raises(
        OmfaError, match=r"^me: no person found \(landmarks that contradict each other, score"
    ):
        find_person(people[0], "me")
    monkeypatch.setattr(person_landmarks, "MIN_SURE", 8)
    monkeypatch.setattr(person_landmarks, "MAX_HIP_SHIFT", 0.0)
    assert find_people(people[0]) == []
