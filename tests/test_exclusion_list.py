"""Lists of photos to leave out, in every form that they come in."""

import json
import types

import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.dresscode import DressCode
from omfa_jax.data.builders.exclusion_list import (
    drop_excluded,
    read_exclusion_list,
    write_exclusion_list,
)
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.checks.photo_duplicates import DuplicateReport

PEOPLE = {"train": 11_647, "test": 2_032}


def names(split, start, count):
    first = {"train": 0, "test": 50_000}[split]
    return [f"{first + i:05d}_00.jpg" for i in range(start, start + count)]


@pytest.fixture(scope="module")
def viton(tmp_path_factory):
    """VITON-HD's lists at their real size, without a picture."""
    root = tmp_path_factory.mktemp("viton")
    for split, count in PEOPLE.items():
        (root / split / "image").mkdir(parents=True)
        lines = [f"{name} {name}\n" for name in names(split, 0, count)]
        (root / f"{split}_pairs.txt").write_text("".join(lines))
    return root


TRAIN, TEST = names("train", 100, 95), names("test", 7, 6)
LEAKED = names("test", 500, 36)
FORMS = {
    "tryoffdiff": {"train": {"duplicates": TRAIN}, "test": {"duplicates": TEST, "leaked": LEAKED}},
    "flat": {"train": TRAIN, "test": TEST + LEAKED},
    "by kind": {"duplicates": {"train": TRAIN, "test": TEST}, "leaked": {"test": LEAKED}},
    "no splits": [*TRAIN, *TEST, *LEAKED],
    "for readers": {"train": TRAIN, "test": TEST + LEAKED, "groups": [["00000_00.jpg", 3]]},
}


def counts(root, path):
    warnings = []
    items = VitonHD.list_items(str(root), warnings, clean=path)
    return {split: len(members) for split, members in items.items()}, warnings


@pytest.mark.parametrize("form", FORMS)
def test_viton_hd_keeps_11552_and_1990(viton, tmp_path, form):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(FORMS[form]))
    kept, warnings = counts(viton, path)
    assert kept == {"train": 11_552, "test": 1_990}
    assert warnings == ["list.json: left out train 95, test 42"]


def test_a_text_file_counts_in_every_split(viton, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeff" + "\r\n".join([*TRAIN, "", *TEST, *LEAKED]), "utf-8")
    assert counts(viton, path)[0] == {"train": 11_552, "test": 1_990}


def test_without_a_list_all_stay(viton):
    assert counts(viton, None) == (PEOPLE, [])


def test_unknown_names_are_a_warning_and_splits_count(viton, tmp_path):
    path = tmp_path / "list.json"
    # a test name under train is in no training photo; twice the same is once
    path.write_text(json.dumps({"train": ["50001_00.jpg", "00001_00.jpg"] * 2, "val": ["x.jpg"]}))
    kept, warnings = counts(viton, path)
    assert kept == {"train": 11_646, "test": 2_032}
    assert warnings == [
        "list.json: left out train 1, test 0",
        "list.json: 2 names are not in the data (train/50001_00.jpg, val/x.jpg)",
    ]


def test_paths_match_by_their_last_parts(tmp_path):
    for folder in ("upper_body", "dresses"):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "train_pairs.txt").write_text("000001_0.jpg 000001_1.jpg\n")
    path = tmp_path / "list.txt"
    for name, left in {
        "dresses/images/000001_0.jpg": ["upper_body_000001_0"],
        "000001_0.png": [],
        "lower_body/images/000001_0.jpg": ["upper_body_000001_0", "dresses_000001_0"],
    }.items():
        path.write_text(name)
        items = DressCode.list_items(str(tmp_path), [], clean=path)
        assert [item.key for item in items["train"]] == left


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not valid JSON"),
        ('{"train": [3]}', "file names"),
        ("", "not valid JSON"),
    ],
)
def test_a_list_that_is_none(tmp_path, text, word):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(OmfaError, match=rf"--clean.*{word}"):
        read_exclusion_list(path)
    with pytest.raises(OmfaError, match="--clean"):
        read_exclusion_list(tmp_path / "gone.json")


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"groups": []}'), ("a.txt", "\n")])
def test_an_empty_list_leaves_nothing_out_and_says_so(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    warnings = []
    items = {"train": [types.SimpleNamespace(person=tmp_path / "a.jpg")]}
    assert drop_excluded(items, path, warnings) == items
    assert warnings == [f"{name}: left out nothing, the list is empty"]


def test_the_list_of_a_data_set_without_duplicates_is_read(tmp_path):
    path = tmp_path / "list.json"
    write_exclusion_list(path, DuplicateReport(photos=3, groups=(), unreadable=()))
    assert read_exclusion_list(path) == []
