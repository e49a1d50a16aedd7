"""Several folders in one training order, and positions that fit any shards and processes."""

import json
from typing import Any

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_train_iterator
from omfa_jax.data.pipeline.mixture import (
    TrainingOrder,
    compute_integer_weights,
    interleave_folders,
    parse_mixture,
)
from omfa_jax.data.pipeline.worker_iterator import ResumableWorkerIterator

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
TASKS = (Task("try_on", ("person",), 0.5, ""), Task("try_off", ("garment",), 0.5, ""))
COUNTS = (7, 4)
ROW = ("dataset", "epoch", "index")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    for number, count in enumerate(COUNTS):
        raw = tiny.write_raw(root / f"raw{number}", {"train": count})
        build_records(raw, root / f"records{number}")
    return tuple(str(root / f"records{number}") for number in range(len(COUNTS)))


def _dataset(folders, *, weights=(0.7, 0.3), shard=0, shards=1, batch_size=4, **changes):
    mixture = tuple(zip(folders, weights, strict=True))
    settings = PipelineSettings(folders[0], SLOTS, mixture=mixture, threads=1, **changes)
    arguments = {"split": "train", "batch_size": batch_size, "seed": 3, "tasks": TASKS}
    return make_train_iterator(settings, **arguments, shard=shard, shards=shards)


def _rows(batches):
    """Return every example of the batches as (dataset, epoch, index)."""
    return [
        row
        for batch in batches
        for row in zip(*(batch[name].tolist() for name in ROW), strict=True)
    ]


def _joined(parts):
    """Return global batches from the shards' lists of batches."""
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], strict=True)


def test_each_folder_is_gone_through_whole_before_its_next_epoch(folders):
    iterator = _dataset(folders)
    rows = _rows(next(iterator) for _ in range(25))
    assert [sum(row[0] == number for row in rows) for number in (0, 1)] == [70, 30]
    orders = set()
    for number, count in enumerate(COUNTS):
        own = [(epoch, index) for dataset, epoch, index in rows if dataset == number]
        for epoch in range(len(own) // count):
            part = own[epoch * count : (epoch + 1) * count]
            assert {e for e, _ in part} == {epoch}
            assert sorted(index for _, index in part) == list(range(count))
            orders.add(tuple(index for _, index in part))
    assert len(orders) > 10


def test_pictures_come_from_the_folder_that_the_batch_names(folders):
    batch = next(_dataset(folders, batch_size=20))
    assert set(batch["dataset"]) == {0, 1}
    for row, index in enumerate(batch["index"]):
        np.testing.assert_allclose(batch["garment"][row, 32, 24], tiny.colour(int(index)), atol=4)


@pytest.mark.parametrize("shards", [1, 4])
def test_saved_on_two_shards_a_run_goes_on_with_one_or_four(folders, shards):
    # three batches of four: in the middle of both folders' epochs
    whole_iterator = _dataset(folders)
    whole = [next(whole_iterator) for _ in range(14)]
    pair = [_dataset(folders, shard=i, shards=2) for i in range(2)]
    before = _joined([[next(one) for _ in range(3)] for one in pair])
    states = [json.loads(json.dumps(one.get_state())) for one in pair]
    assert states[0] == states[1]
    others = [_dataset(folders, shard=i, shards=shards) for i in range(shards)]
    for other in others:
        other.set_state(states[0])
    after = _joined([[next(other) for _ in range(11)] for other in others])
    _assert_equal(whole, before + after)
    rows = _rows(before + after)
    assert len(set(rows)) == len(rows)
    for number, count in enumerate(COUNTS):
        own = {row for row in rows if row[0] == number}
        full = len(own) // count
        assert {(number, e, i) for e in range(full) for i in range(count)} <= own and full > 1


def test_worker_processes_give_the_same_bits_and_positions(folders):
    threads = _dataset(folders, multi_pose_prob=0.5)
    workers = _dataset(folders, multi_pose_prob=0.5, processes=2)
    whole = [next(threads) for _ in range(4)]
    # what threads saved, processes take up, and the other way round
    workers.set_state({"next_index": 1})
    _assert_equal(whole[1:], [next(workers) for _ in range(3)])
    assert workers.get_state() == threads.get_state() == {"next_index": 4}
    workers.close()


def test_a_position_set_anew_opens_the_batches_anew():
    opened = []

    class Numbers:
        def __init__(self, first):
            opened.append(first)
            self.number = first - 1

        def __next__(self):
            self.number += 1
            return {"index": np.array([self.number])}

        def close(self):
            opened.append("closed")

    opening: Any = Numbers
    batches = ResumableWorkerIterator(opening)
    assert batches.get_state() == {"next_index": 0} and not opened
    assert [int(next(batches)["index"][0]) for _ in range(3)] == [0, 1, 2]
    state = json.loads(json.dumps(batches.get_state()))
    next(batches)
    batches.set_state(state)
    assert int(next(batches)["index"][0]) == 3 and batches.get_state() == {"next_index": 4}
    assert opened == [0, "closed", 3]
    for wrong in ({"workers": []}, {"next_index": -1}):
        with pytest.raises(OmfaError, match="next_index"):
            batches.set_state(wrong)


def test_a_mixture_of_one_is_the_folder_itself(folders):
    alone = make_train_iterator(
        PipelineSettings(folders[1], SLOTS), split="train", batch_size=4, seed=3, tasks=TASKS
    )
    mixed = _dataset(folders[1:], weights=(5.0,))
    _assert_equal([next(alone) for _ in range(3)], [next(mixed) for _ in range(3)])


def test_folders_are_spread_evenly_and_exactly():
    assert compute_integer_weights((0.7, 0.3)) == (7, 3)
    assert compute_integer_weights((2, 1, 1)) == (2, 1, 1)
    assert compute_integer_weights((1 / 3, 2 / 3)) == (333, 667)
    dataset, rank = interleave_folders((7, 3))
    # no prefix is off by more than one from its share
    for number, part in enumerate((7, 3)):
        seen = np.cumsum(dataset == number)
        assert (np.abs(seen - np.arange(1, 11) * part / 10) < 1).all()
        assert rank[dataset == number].tolist() == list(range(part))


def test_the_second_folders_order_is_not_the_firsts():
    order = TrainingOrder([50, 50], [1, 1], seed=3)
    drawn = [order[position] for position in range(100)]
    first, second = ([d.index for d in drawn if d.dataset == number] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50)) and first != second


def test_mixtures_are_read_from_a_flag():
    assert parse_mixture("") == ()
    assert parse_mixture("a=0.7, b/c=x=3") == (("a", 0.7), ("b/c=x", 3.0))
    for text, word in (
        ("a", "expected DIR=WEIGHT"),
        ("a=much", "'a=much'"),
        ("=1", "expected DIR=WEIGHT"),
        ("a=0,b=1", "weight of a"),
        ("a=1,b=1e9", "1/1000"),
        ("a=nan", "weight of a"),
        ("a=1,a/=2", "twice"),
    ):
        with pytest.raises(OmfaError, match=word):
            parse_mixture(text)
