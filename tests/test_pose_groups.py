"""Multi-pose pairs: garment and face of one photo, person and pose of another of its group."""

import dataclasses

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_train_iterator
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.pose_groups import (
    NO_GROUP,
    PoseGroups,
    get_groups_path,
    load_groups,
    read_group_numbers,
)

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
TASKS = (Task("try_on", ("person",), 1.0, ""),)
# records 0..6; 5 has no group, 6 is its group's only one
GROUPS = ("a", "b", "a", "b", "a", "", "c")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of seven people whose groups are GROUPS."""
    root = tmp_path_factory.mktemp("pairing")
    raw = tiny.write_raw(root / "raw", {"train": len(GROUPS)})
    with pytest.MonkeyPatch.context() as patch:
        read = VitonHD.read

        def grouped(item):
            record, flaws = read(item)
            return dataclasses.replace(record, group=GROUPS[int(record.key[:5])]), flaws

        patch.setattr(VitonHD, "read", grouped)
        build_records(raw, root / "records", shard_records=3)
    return str(root / "records")


def _batches(folder, multi_pose, *, count=12, batch_size=7, **changes):
    settings = PipelineSettings(folder, SLOTS, multi_pose_prob=multi_pose, threads=1, **changes)
    iterator = make_train_iterator(
        settings, split="train", batch_size=batch_size, seed=5, tasks=TASKS
    )
    return [next(iterator) for _ in range(count)]


def _who(pixel):
    """Return the person whose garment colour this is."""
    off = [np.abs(np.array(tiny.colour(i), int) - pixel).max() for i in range(len(GROUPS))]
    assert min(off) < 6
    return int(np.argmin(off))


def _pairs(batches):
    """Return (person, garment) numbers of every row, read from the pictures."""
    return [
        (_who(batch["person"][row, 40, 24]), _who(batch["garment"][row, 32, 24]))
        for batch in batches
        for row in range(len(batch["index"]))
    ]


def test_pairs_stay_in_their_group_and_meet_everybody_in_it(records):
    batches = _batches(records, 1.0, count=40)
    pairs = _pairs(batches)
    # the index is the person's; every person comes once an epoch, whoever lends the garment
    assert [person for person, _ in pairs] == np.concatenate([b["index"] for b in batches]).tolist()
    for epoch in range(40):
        assert sorted(p for p, _ in pairs[7 * epoch : 7 * epoch + 7]) == list(range(7))
    expected = {(0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2), (1, 3), (3, 1), (5, 5), (6, 6)}
    assert set(pairs) == expected


def test_the_pose_map_is_the_persons(records):
    for batch in _batches(records, 1.0, count=3):
        for row, index in enumerate(batch["index"]):
            np.testing.assert_array_equal(batch["pose"][row, 32, 24], (128, 128, 200 + index))


def test_the_probability_is_kept_and_zero_changes_nothing(records):
    plain, none = _batches(records, 0.0, count=3), _batches(records, 0.0, count=3)
    assert all(person == garment for person, garment in _pairs(plain))
    for batch, other in zip(plain, none, strict=True):
        np.testing.assert_array_equal(batch["person"], other["person"])
    half = [(p, g) for p, g in _pairs(_batches(records, 0.5, count=100)) if p < 5]
    assert abs(np.mean([p != g for p, g in half]) - 0.5) < 0.08
    # pairing draws for itself: order and tasks are those of the plain run
    for batch, other in zip(plain, _batches(records, 1.0, count=3), strict=True):
        np.testing.assert_array_equal(batch["index"], other["index"])


def test_pairs_belong_to_the_position(records):
    wide = _pairs(_batches(records, 0.5, count=6, batch_size=14))
    assert wide == _pairs(_batches(records, 0.5, count=12, batch_size=7))


def test_latents_pair_as_pictures_do(records, tmp_path):
    def encode(pictures):
        return pictures[:, ::8, ::8]

    write_latents(records, tmp_path / "latents", encode, slots=SLOTS, vae_id="v", batch_size=1)
    latents = _batches(str(tmp_path / "latents"), 1.0, count=4, vae_id="v")
    for batch, encoded in zip(_batches(records, 1.0, count=4), latents, strict=True):
        for name in ("garment", "person", "face"):
            expected = batch[name][:, ::8, ::8] / 127.5 - 1
            np.testing.assert_allclose(encoded[f"{name}_latents"], expected, atol=2e-3)


def test_groups_are_written_with_the_records(records, tmp_path, monkeypatch):
    write_latents(records, tmp_path / "latents", lambda p: p[:, ::8, ::8], slots=SLOTS, vae_id="v")

    def fail(self, index):
        raise AssertionError("a record was read")

    monkeypatch.setattr(record_schema.RecordSource, "__getitem__", fail)
    for folder in (records, tmp_path / "latents"):
        load_groups(folder, "train")
        stored = np.load(get_groups_path(folder, "train"))
        np.testing.assert_array_equal(stored, [0, 1, 0, 1, 0, NO_GROUP, 2])


def test_groups_of_older_records_are_read_from_them_once(records, monkeypatch):
    file = get_groups_path(records, "train")
    file.unlink()
    load_groups(records, "train")
    np.testing.assert_array_equal(np.load(file), [0, 1, 0, 1, 0, NO_GROUP, 2])

    def fail(*_):
        raise AssertionError("the records were read again")

    monkeypatch.setattr("omfa_jax.data.records.pose_groups.number_groups", fail)
    load_groups(records, "train")
    # a file of another number of records is another set's
    np.save(file, np.zeros(3, np.int32))
    with pytest.raises(AssertionError, match="again"):
        load_groups(records, "train")
    file.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="again"):
        load_groups(records, "train")
    file.unlink()


def test_partners_of_a_million_records():
    rng = np.random.default_rng(0)
    numbers = rng.integers(NO_GROUP, 300_000, 10**6).astype(np.int32)
    groups = PoseGroups(numbers)
    for index in rng.integers(10**6, size=300).tolist():
        partner = groups.sample_partner(index, rng)
        if numbers[index] == NO_GROUP or (numbers == numbers[index]).sum() == 1:
            assert partner == index
        else:
            assert partner != index and numbers[partner] == numbers[index]


def test_wrong_probabilities_are_named(records):
    with pytest.raises(OmfaError, match=r"multi_pose_prob: expected 0 to 1, got 1\.5"):
        _batches(records, 1.5)
    assert read_group_numbers(record_schema.open_records(records, "train")).dtype == np.int32
