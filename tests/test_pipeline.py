"""The input pipeline: order, shards, resuming, decoding; all a function of seed and position."""

import json
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline import grain_pipeline
from omfa_jax.data.pipeline.buffer_pool import BufferPool
from omfa_jax.data.pipeline.decode_record import decode_record
from omfa_jax.data.pipeline.grain_pipeline import (
    PipelineSettings,
    compute_task_shares,
    make_eval_iterator,
    make_train_iterator,
)
from omfa_jax.data.records.record_schema import open_records

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
TASKS = (
    Task("try_on", ("person",), 0.5, "try on"),
    Task("try_off", ("garment",), 0.5, "try off"),
    Task("joint", ("garment", "person"), 0.0, "joint"),
)
PEOPLE = 7


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    build_records(tiny.write_raw(root / "raw", {"train": PEOPLE, "val": 5}), root / "records")
    return str(root / "records")


def _dataset(records, *, batch_size=4, seed=3, shard=0, shards=1, **changes):
    settings = PipelineSettings(records, changes.pop("slots", SLOTS), **changes)
    arguments = {"split": "train", "batch_size": batch_size, "seed": seed, "tasks": TASKS}
    return make_train_iterator(settings, **arguments, shard=shard, shards=shards)


def _take(iterator, count):
    return [next(iterator) for _ in range(count)]


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert list(batch) == list(other)
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], strict=True)


def test_batch_contents(records):
    batch = next(_dataset(records))
    shapes = {name: (array.shape, str(array.dtype)) for name, array in batch.items()}
    assert shapes == {
        "garment": ((4, 64, 48, 3), "uint8"),
        "person": ((4, 64, 48, 3), "uint8"),
        "face": ((4, 16, 16, 3), "uint8"),
        "pose": ((4, 64, 48, 3), "uint8"),
        "has_pose": ((4,), "bool"),
        "task": ((4,), "int32"),
        "index": ((4,), "int64"),
        "dataset": ((4,), "int32"),
        "epoch": ((4,), "int32"),
    }
    source = open_records(records, "train")
    for row, index in enumerate(batch["index"]):
        person = images.read_rgb(source[index].person)
        np.testing.assert_array_equal(batch["person"][row], person)
        np.testing.assert_allclose(batch["garment"][row, 32, 24], tiny.colour(int(index)), atol=4)


def test_decoding_letterboxes_into_the_slots_and_crops_the_face(records):
    record = open_records(records, "train")[1]
    slots = {"garment": (32, 32), "person": (32, 48), "face": (8, 12)}
    decoded = decode_record(record, slots)
    # 64 x 48 in 32 x 48 is 24 wide with 12 px of white paper (black for the pose) on each side
    assert (decoded["person"][:, :12] == 255).all() and (decoded["person"][:, 36:] == 255).all()
    assert (decoded["pose"][:, :12] == 0).all() and decoded["pose"].shape == (32, 48, 3)
    face = decoded["face"]
    assert face.shape == (8, 12, 3)
    np.testing.assert_allclose(face[4, 6], tiny.SKIN, atol=25)


def test_absent_face_and_pose_have_stated_values(tmp_path):
    raw = tiny.write_raw(tmp_path / "raw", {"train": 1}, pose=False)
    (raw / "train/openpose_json/00000_00_keypoints.json").unlink()
    (raw / "train/image-parse-v3/00000_00.png").unlink()
    build_records(raw, tmp_path / "records")
    batch = next(_dataset(str(tmp_path / "records"), batch_size=2))
    assert (batch["face"] == 255).all() and (batch["pose"] == 0).all()
    assert not batch["has_pose"].any()


def test_every_epoch_sees_each_record_once_in_another_order(records):
    indices = np.concatenate([b["index"] for b in _take(_dataset(records), PEOPLE)])
    epochs = indices.reshape(4, PEOPLE)
    for epoch in epochs:
        assert sorted(epoch) == list(range(PEOPLE))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_another_seed_gives_another_order(records):
    first, same, other = (_dataset(records, batch_size=PEOPLE, seed=s) for s in (3, 3, 4))
    order = next(first)["index"]
    np.testing.assert_array_equal(order, next(same)["index"])
    assert (order != next(other)["index"]).any()


def test_resuming_in_a_new_iterator_is_bit_equal(records):
    whole = _take(_dataset(records), 4)
    first = _dataset(records)
    start = _take(first, 2)
    state = json.loads(json.dumps(first.get_state()))
    second = _dataset(records)
    second.set_state(state)
    _assert_equal(whole, start + _take(second, 2))


def test_a_state_counts_consumed_batches_not_prefetched_ones(records):
    iterator = _dataset(records, prefetch_batches=8)
    assert iterator.get_state() == {"next_index": 0}
    _take(iterator, 3)
    assert iterator.get_state() == {"next_index": 3}


def test_setting_the_state_back_replays(records):
    iterator = _dataset(records)
    state = iterator.get_state()
    before = _take(iterator, 2)
    iterator.set_state(state)
    _assert_equal(before, _take(iterator, 2))


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_together_are_the_global_batch_in_order(records, shards):
    whole = _take(_dataset(records), 3)
    parts = [_take(_dataset(records, shard=i, shards=shards), 3) for i in range(shards)]
    joined = [
        {name: np.concatenate([part[i][name] for part in parts]) for name in whole[0]}
        for i in range(3)
    ]
    _assert_equal(whole, joined)


def test_a_run_resumes_with_another_number_of_shards(records):
    whole = _take(_dataset(records), 4)
    two = _dataset(records, shard=1, shards=2)
    _take(two, 2)
    one = _dataset(records)
    one.set_state(two.get_state())
    _assert_equal(whole[2:], _take(one, 2))


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_change_nothing(records, threads):
    _assert_equal(
        _take(_dataset(records, threads=0), 4),
        _take(_dataset(records, threads=threads, prefetch_batches=3), 4),
    )


def test_a_batch_may_be_larger_than_the_data(records):
    batch = next(_dataset(records, batch_size=2 * PEOPLE + 3))
    counts = np.bincount(batch["index"])
    assert counts.sum() == 2 * PEOPLE + 3 and counts.min() == 2 and counts.max() == 3


def test_tasks_are_drawn_by_weight_per_item(records):
    iterator = _dataset(records, batch_size=50, prefetch_batches=2)
    batches = _take(iterator, 8)
    tasks = np.concatenate([batch["task"] for batch in batches])
    assert set(tasks) == {0, 1}
    assert abs((tasks == 0).mean() - 0.5) < 0.1
    # the draw belongs to the position: one record meets both tasks
    indices = np.concatenate([batch["index"] for batch in batches])
    assert set(tasks[indices == 0]) == {0, 1}


def test_task_shares():
    np.testing.assert_allclose(compute_task_shares(TASKS), [0.5, 1, 1])
    none = Task("none", ("face",), 0.0, "")
    # ten tenths sum to less than 1 in float64: a draw in the gap would pick the weightless task
    tenths = [Task(str(i), ("face",), 0.1, "") for i in range(10)]
    assert compute_task_shares([*tenths, none])[9:].tolist() == [1.0, 1.0]
    for tasks in ((), (none,)):
        with pytest.raises(OmfaError, match="weight above 0"):
            compute_task_shares(tasks)


def test_wrong_settings_are_named(records):
    for changes, word in (
        ({"slots": {**SLOTS, "fcae": (8, 8)}}, "did you mean 'face'"),
        ({"slots": {"garment": (8, 8), "person": (8, 8)}}, "'face', got None"),
        ({"slots": {**SLOTS, "face": (0, 8)}}, r"\(0, 8\)"),
        ({"shards": 3}, "multiple of 3 shards, got 4"),
        ({"shard": 2, "shards": 2}, "shard < 2"),
        ({"batch_size": 0}, "got 0"),
        ({"threads": -1}, "threads"),
    ):
        with pytest.raises(OmfaError, match=word):
            _dataset(records, **changes)
    with pytest.raises(OmfaError, match="did you mean 'train'"):
        make_eval_iterator(PipelineSettings(records, SLOTS), split="trian", batch_size=2)


def test_eval_batches_are_ordered_and_padded(records):
    settings = PipelineSettings(records, SLOTS)
    batches = list(make_eval_iterator(settings, split="val", batch_size=4))
    assert [batch["valid"].tolist() for batch in batches] == [[True] * 4, [True] + [False] * 3]
    keys = np.concatenate([batch["key"] for batch in batches])
    assert keys.tolist() == [f"{i:05d}_00" for i in (0, 1, 2, 3, 4, 4, 4, 4)]
    assert batches[1]["person"].shape == (4, 64, 48, 3)
    person = batches[1]["person"]
    assert person.dtype == np.float32 and person.min() >= -1 and person.max() <= 1
    np.testing.assert_array_equal(batches[1]["index"], [4, 4, 4, 4])
    limited = list(make_eval_iterator(settings, split="val", batch_size=2, limit=3))
    assert [batch["valid"].tolist() for batch in limited] == [[True, True], [True, False]]
    assert list(make_eval_iterator(settings, split="val", batch_size=2, limit=0)) == []


def test_eval_shards_cover_the_split_with_equally_many_batches(records):
    settings = PipelineSettings(records, SLOTS)
    arguments = {"split": "val", "batch_size": 4}
    whole = list(make_eval_iterator(settings, **arguments))
    parts = [list(make_eval_iterator(settings, **arguments, shard=i, shards=2)) for i in range(2)]
    joined = [
        {name: np.concatenate([left[name], right[name]]) for name in left}
        for left, right in zip(*parts, strict=True)
    ]
    _assert_equal(whole, joined)


def test_unpaired_garments(records):
    settings = PipelineSettings(records, SLOTS)
    batch = next(make_eval_iterator(settings, split="val", batch_size=5, unpaired=True))
    for index in range(5):
        garment = images.from_signed(batch["garment"][index])
        np.testing.assert_allclose(garment[32, 24], tiny.colour((index + 1) % 5), atol=4)
    with pytest.raises(OmfaError, match="no unpaired garment"):
        next(make_eval_iterator(settings, split="train", batch_size=2, unpaired=True))


def test_order_survives_a_new_process(records):
    code = (
        "from omfa_jax.core.tasks import Task\n"
        "from omfa_jax.data.pipeline.grain_pipeline import *\n"
        f"settings = PipelineSettings({records!r}, {SLOTS!r})\n"
        "tasks = (Task('a', ('person',), .5, ''), Task('b', ('garment',), .5, ''))\n"
        "options = {'split': 'train', 'batch_size': 14, 'seed': 3, 'tasks': tasks}\n"
        "b = next(make_train_iterator(settings, **options))\n"
        "print(b['index'].tolist() + b['task'].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    batch = next(_dataset(records, batch_size=14))
    assert json.loads(done.stdout) == batch["index"].tolist() + batch["task"].tolist()


def test_an_evaluations_facts_do_not_hold_its_pictures(records, monkeypatch):
    """The held-out loss keeps them through a whole training."""
    lent = []

    class Noting(BufferPool):
        def acquire(self, size_bytes):
            piece = super().acquire(size_bytes)
            lent.append(weakref.ref(piece))
            return piece

    monkeypatch.setattr(grain_pipeline, "BufferPool", Noting)
    settings = PipelineSettings(records, SLOTS, threads=0)
    batches = make_eval_iterator(settings, split="val", batch_size=2)
    facts = ("has_pose", "valid", "index", "key")
    kept = [{name: batch[name] for name in facts} for batch in batches]
    del batches
    assert len(kept) == len(lent) == 3
    assert [piece() is None for piece in lent] == [True] * 3
