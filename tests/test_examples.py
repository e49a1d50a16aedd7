"""What a setting gives and makes: paired, unpaired, multi-pose, try-off; and gains in pairs."""

import dataclasses

import numpy as np
import pytest
from tiny_model import pipeline, write_records

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.pose_groups import get_groups_path
from omfa_jax.evals import split_examples
from omfa_jax.evals.influence import compute_gain
from omfa_jax.evals.split_examples import EvalSplit


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data"), 6)


def test_a_setting_is_what_is_given_and_what_is_made(records):
    paired, unpaired, off = (
        EvalSplit(pipeline(records), "test", name) for name in ("paired", "unpaired", "try_off")
    )
    assert (paired.task, paired.generated, off.task, off.generated) == (
        *("try_on", "person"),
        *("try_off", "garment"),
    )
    own, other = paired.get_inputs(1), unpaired.get_inputs(1)
    np.testing.assert_array_equal(other["garment"], paired.get_inputs(2)["garment"])
    assert unpaired.examples[1].garment == "00002_00"
    for name in ("person", "face", "pose"):
        np.testing.assert_array_equal(own[name], other[name])
    swapped = paired.get_inputs(1, {"face": 3, "pose": 4})
    np.testing.assert_array_equal(swapped["pose"], paired.get_inputs(4)["pose"])
    np.testing.assert_array_equal(swapped["face"], paired.get_inputs(3)["face"])
    np.testing.assert_array_equal(swapped["garment"], own["garment"])
    assert paired.with_setting("try_off").names == off.names
    with pytest.raises(OmfaError, match="did you mean 'paired'"):
        EvalSplit(pipeline(records), "test", "pairde")
    with pytest.raises(OmfaError, match=r"has no group .same person and outfit."):
        EvalSplit(pipeline(records), "test", "multi_pose")


def test_multi_pose_takes_garment_and_face_from_another_photo(tmp_path, monkeypatch):
    written = record_schema.to_example

    def grouped(record):
        group = "outfit" if record.key < "00003" else ""
        return written(dataclasses.replace(record, group=group))

    monkeypatch.setattr(record_schema, "to_example", grouped)
    records = write_records(tmp_path, 5)
    # what was counted of the records as they were built
    get_groups_path(records, "test").unlink()
    folder = pipeline(records)
    split, own = (
        EvalSplit(folder, "test", "multi_pose", seed=1),
        EvalSplit(folder, "test", "paired"),
    )
    assert split.names == ["00000_00", "00001_00", "00002_00"]
    for place, named in enumerate(split.examples):
        assert named.source_index != named.index and named.source_index < 3
        example = split.get_inputs(place)
        for part in ("garment", "face"):
            np.testing.assert_array_equal(example[part], own.get_inputs(named.source_index)[part])
        for part in ("person", "pose"):
            np.testing.assert_array_equal(example[part], own.get_inputs(named.index)[part])
    again = EvalSplit(folder, "test", "multi_pose", seed=1)
    assert again.examples == split.examples


def test_gain_is_paired_and_knows_which_way_is_better():
    right, wrong = [3.0, 5.0, 4.0, 6.0], [2.0, 3.5, 3.0, 4.5]
    row = compute_gain("psnr", "higher", right, wrong, seed=0)
    assert row["gain"] == pytest.approx(1.25) and row["count"] == 4
    # resampled in pairs: each difference lies in 1..1.5, and so do the interval's ends
    assert 1.0 <= row["interval"][0] <= row["gain"] <= row["interval"][1] <= 1.5
    worse = compute_gain("lpips", "lower", right, wrong, seed=0)
    assert worse["gain"] == pytest.approx(-1.25)
    assert compute_gain("psnr", "higher", right, right, seed=0)["interval"] == [0.0, 0.0]
    with pytest.raises(OmfaError, match="at least 2 examples"):
        compute_gain("psnr", "higher", [1.0], [1.0], seed=0)


def test_two_records_that_would_be_one_file_are_refused(records, monkeypatch):
    monkeypatch.setattr(split_examples, "to_file_name", lambda key: key.partition("_")[2])
    with pytest.raises(
        OmfaError, match=r"00000_00 and 00001_00 .* would both be written to 00\.png"
    ):
        EvalSplit(pipeline(records), "test", "paired")
