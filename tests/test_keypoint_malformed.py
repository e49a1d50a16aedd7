"""Damaged keypoints files: each is one clear line or the right points, never nonsense."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keypoint_files import FORMATS, PERSON, SIZE_PX, write

from omfa_jax.body.keypoints.keypoint_reader import KeypointsError, read_keypoints

CASES = 72
JUNK: tuple[Any, ...] = (
    *(None, "", "left", True, -1, 0, 1e308, -1e308, 10**400, float("nan"), float("inf")),
    *([], [[]], {}, {"x": 1}, [None], [1, 2, 3], [[[[1]]]], "\u202e\n\t", 3.5),
)
# reprs of Python: quoted words, brackets, classes
REPR = re.compile(r"'|<|\{|\[|None|True|False|Error\b|dtype|\\x")


def list_places(node: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of all values below a node."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, child in inner:
        found.append((*path, key))
        if isinstance(child, dict | list):
            found += list_places(child, (*path, key))
    return found


def pick(rng: np.random.Generator, document: Any) -> tuple[Any, Any]:
    """Return a container of the document and a key in it; shallow ones as likely as deep ones."""
    places = list_places(document)
    depth = rng.choice(sorted({len(place) for place in places}))
    places = [place for place in places if len(place) == depth]
    place = places[rng.integers(len(places))]
    for key in place[:-1]:
        document = document[key]
    return document, place[-1]


def replace_value(rng: np.random.Generator, document: Any) -> Any:
    container, key = pick(rng, document)
    container[key] = copy.deepcopy(JUNK[rng.integers(len(JUNK))])
    return document


def drop_value(rng: np.random.Generator, document: Any) -> Any:
    container, key = pick(rng, document)
    del container[key]
    return document


def wrap_value(rng: np.random.Generator, document: Any) -> Any:
    container, key = pick(rng, document)
    container[key] = [container[key]] if rng.random() < 0.5 else {"data": container[key]}
    return document


def repeat_value(rng: np.random.Generator, document: Any) -> Any:
    container, key = pick(rng, document)
    container[key] = [container[key]] * 3
    return document


def cut_text(rng: np.random.Generator, document: Any) -> str:
    text = json.dumps(document)
    return text[: rng.integers(len(text))]


def change_text(rng: np.random.Generator, document: Any) -> str:
    text = list(json.dumps(document))
    for place in rng.integers(len(text), size=3):
        text[place] = chr(rng.integers(32, 0x250))
    return "".join(text)


# values more often than the text, which is mostly no JSON then
CHANGES = (replace_value, replace_value, replace_value, drop_value, drop_value, wrap_value)
CHANGES = (*CHANGES, wrap_value, repeat_value, cut_text, change_text)


def make_case(number: int) -> tuple[str, Any]:
    """Return the name of a damaged file and its JSON, or its text."""
    rng = np.random.default_rng([17, number])
    name = list(FORMATS)[number % len(FORMATS)]
    change = CHANGES[rng.integers(len(CHANGES))]
    return f"{name}, {change.__name__}", change(rng, copy.deepcopy(FORMATS[name][0]()))


def read_case(folder: Path, document: Any) -> np.ndarray | str:
    path = write(folder / "k.json", document)
    try:
        return read_keypoints(path, SIZE_PX, photo="me.jpg").rows
    except KeypointsError as error:
        return str(error).replace(str(path), "k.json")


@pytest.mark.parametrize("number", range(CASES))
def test_damaged_files_are_said_or_read_rightly(tmp_path, record_property, number):
    name, document = make_case(number)
    said = read_case(tmp_path, document)
    if isinstance(said, str):
        record_property("said", f"{name}: {said}")
        assert "k.json: " in said and "\n" not in said and len(said) < 300
        assert not REPR.search(said), said
        return
    record_property("said", f"{name}: read, {(said[:, 2] > 0).sum()} points")
    assert said.shape == (25, 3) and np.isfinite(said).all()
    # a changed number or two moves a point; all others are the person's
    truth = np.array(list(PERSON.values()))
    seen = said[:, 2] >= 0.2
    wrong = seen & (np.abs(said[:, :2] - truth[:, :2]).max(axis=1) > 0.01)
    assert seen.sum() >= 10 and wrong.sum() <= 2
