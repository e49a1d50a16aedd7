"""A checkpoint's record of sums is believed where it is whole, and is itself no reason to stop."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from matrix_training import matrix_run
from test_damage import NEWEST, names, run_to

from omfa_jax.train.checkpoints.checksums import compute_checksums, find_altered, is_altered
from omfa_jax.train.loop import train

RECORD, END = "checksums/metadata", "_CHECKPOINT_METADATA"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    train(matrix_run(workdir, NEWEST, save_every_steps=2))
    return workdir


def renamed(text):
    return text.replace("kernel", "kdrnel")


def reshaped(text):
    record = json.loads(text)
    line = next(iter(record["state"].values()))
    line[1] = [7, *line[1]]
    return json.dumps(record)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (RECORD, renamed),
        (RECORD, reshaped),
        (RECORD, lambda text: text.replace('"float32"', "4", 1)),
        (RECORD, lambda _: '{"state": 5}'),
        (RECORD, lambda _: '{"state": null}'),
        (RECORD, lambda _: '{"state": {"step": [1]}}'),
        (END, lambda _: "[]"),
        (END, lambda _: "3"),
    ],
)
def test_an_altered_record_is_damage_and_no_other_model(whole, tmp_path, file, change):
    copy = shutil.copytree(whole, tmp_path / "run")
    path = copy / "checkpoints" / str(NEWEST) / file
    path.write_text(change(path.read_text()))
    _, run = run_to(copy, 5)
    assert run.batches.seen == [2, 3, 4]
    assert names(copy) == ["3", "4", "5", f"aside-{NEWEST}"]


def test_sums_are_of_every_word_and_of_no_place():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    record = compute_checksums(tree)
    assert find_altered(tree, record) is None
    assert record["a"][1:] == [[2, 3], "float32"]
    for place in np.ndindex(2, 3):
        altered = tree["a"].copy()
        altered.view(np.uint32)[place] ^= 1
        assert find_altered(tree | {"a": altered}, record) == "a"
        assert is_altered(altered, record["a"])
    assert not is_altered(tree["a"], record["a"])
    assert compute_checksums({}) == {}
