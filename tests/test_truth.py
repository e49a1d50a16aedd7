"""The synthetic world's exact answers, and where in a photo a condition shows."""

import json
import weakref

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.label_sets import CIHP
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.evals.exact_truth import ConditionRegions, ExactTruth
from omfa_jax.evals.influence import sample_derangement
from omfa_jax.evals.prediction_sampling import SamplingJob
from omfa_jax.evals.split_examples import EvalSplit
from omfa_jax.evals.split_run import SplitRun, compute_influence, compute_truth_scores

SIZE = (tiny.HEIGHT_PX, tiny.WIDTH_PX)
COUNT = 4


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A raw folder with answers as `omfa data synthesize` names them: person_garment_pose."""
    raw = tiny.write_raw(tmp_path_factory.mktemp("truth") / "raw", {"train": 1, "test": COUNT})
    for person in range(COUNT):
        partner = (person + 1) % COUNT
        answers = ((person, partner, person), (person, person, person + 1))
        for number, stem in enumerate("_".join(f"{n:05d}" for n in a) for a in answers):
            folder = raw / "test" / "truth"
            worn = partner if number == 0 else person
            images.write_image(folder / "image" / f"{stem}.jpg", tiny.photo(worn))
            images.write_image(folder / "pose" / f"{stem}.png", tiny.pose_map(20 + person))
            tiny.write_labels(folder / "image-parse-v3" / f"{stem}.png", tiny.label_map())
    return raw


@pytest.fixture(scope="module")
def split(raw):
    records = raw.parent / "records"
    build_records(raw, records)
    slots = {"garment": SIZE, "person": SIZE, "face": (16, 16)}
    return EvalSplit(PipelineSettings(str(records), slots, threads=0), "test", "paired")


def test_an_answer_is_found_by_the_pairs_file_and_the_next_pose(raw):
    truth = ExactTruth(raw)
    worn = truth.read_answer("00001_00", "unpaired")
    # JPEG, at its best: painted colours come back within a few levels
    assert np.abs(worn.image.astype(int) - tiny.photo(2)).max() < 25
    np.testing.assert_array_equal(worn.garment, tiny.label_map() == CIHP.ids["upper"])
    posed = truth.read_answer("00001_00", "new_pose")
    assert np.abs(posed.image.astype(int) - tiny.photo(1)).max() < 25
    np.testing.assert_array_equal(posed.pose, tiny.pose_map(21))
    assert truth.has_answer("00001_00", "unpaired")
    with pytest.raises(OmfaError, match="must be the synthetic raw folder"):
        truth.read_answer("holiday", "unpaired")
    with pytest.raises(OmfaError, match="--truth"):
        ExactTruth(raw.parent)


def test_regions_are_where_the_condition_shows(raw):
    regions, labels = ConditionRegions(raw), tiny.label_map()
    expected = {
        "garment": labels == CIHP.ids["upper"],
        "face": np.isin(labels, [CIHP.ids["face"], CIHP.ids["hair"]]),
        "pose": labels > 0,
    }
    for condition, mask in expected.items():
        np.testing.assert_array_equal(regions.read_region("00000_00", condition, ""), mask)
    assert regions.read_region("00000_00", "garment", "dress") is None
    with pytest.raises(OmfaError, match="--regions"):
        ConditionRegions(raw, "train2")


def perfect(split, painter):
    """A model in a sampler's place: it paints what it is given without a fault."""

    def sample(work: SamplingJob) -> int:
        for place in range(len(work.names)):
            images.write_image(work.get_path(place), painter(work.get_inputs(place)))
        return len(work.names)

    return sample


def dressed(example):
    """Paint the garment given where garments are worn; everything else is always the same."""
    picture, where = tiny.photo(0), tiny.label_map() == CIHP.ids["upper"]
    picture[where] = np.asarray(example["garment"])[32, 24]
    return picture


def test_influence_of_a_model_that_sees_the_garment_alone(raw, split, tmp_path):
    run = SplitRun(split, tmp_path, 5, perfect(split, dressed))
    split.write_ground_truth(tmp_path)
    run.sample_predictions()
    for condition in ("garment", "face", "pose"):
        run.sample_swapped(condition)
    block = compute_influence(run, ["garment", "face", "pose"], regions=ConditionRegions(raw))
    assert block["garment"]["gain"] > 10 and block["garment"]["interval"][0] > 5
    assert block["garment"]["right"] > 30 and block["garment"]["region"] == "garment region"
    for name in ("face", "pose"):
        assert block[name]["gain"] == 0 and block[name]["interval"] == [0, 0]
    whole = compute_influence(run, ["garment"])["garment"]
    assert whole["region"] == "full image" and whole["right"] != block["garment"]["right"]
    similar = compute_influence(run, ["garment"], metric="ssim")["garment"]
    assert similar["metric"] == "ssim" and 0 < similar["gain"] < 1
    json.dumps(block, allow_nan=False)
    swap = sample_derangement(COUNT, 5)
    other = images.read_rgb(tmp_path / "other_garment" / "00000_00.png")[36, 24]
    np.testing.assert_allclose(other, tiny.colour(int(swap[0])), atol=12)
    with pytest.raises(OmfaError, match="has no condition 'hair'"):
        run.sample_swapped("hair")


def test_scores_against_exact_answers(raw, split, tmp_path):
    truth, sample = ExactTruth(raw), perfect(split, dressed)
    run = SplitRun(split, tmp_path, 5, sample)
    seen = []

    def noting(example):
        seen.append(example["pose"])
        return dressed(example)

    posed = SplitRun(split, tmp_path, 5, perfect(split, noting)).sample_truth_cases(
        truth, "new_pose"
    )
    np.testing.assert_array_equal(seen[1], tiny.pose_map(21))
    unpaired = SplitRun(split.with_setting("unpaired"), tmp_path, 5, sample).sample_truth_cases(
        truth, "unpaired"
    )
    block = compute_truth_scores(run, truth, {"unpaired": unpaired, "new_pose": posed})
    for kind in ("unpaired", "new_pose"):
        assert block[kind]["psnr_garment_region"] > 30 and block[kind]["count"] == COUNT
        assert 0.8 < block[kind]["ssim"] <= 1
    # the garment of the pairs file and not the own one
    mixed = compute_truth_scores(run, truth, {"unpaired": posed})
    assert mixed["unpaired"]["psnr_garment_region"] < block["unpaired"]["psnr_garment_region"] - 5


def test_pictures_of_a_split_are_looked_at_one_by_one(raw, split, tmp_path, monkeypatch):
    """A split's regions and answers at full size would be gigabytes."""
    run = SplitRun(split, tmp_path, 5, perfect(split, dressed))
    split.write_ground_truth(tmp_path)
    run.sample_predictions()
    run.sample_swapped("garment")
    answer, region = ExactTruth.read_answer, ConditionRegions.read_region
    arrays: list[weakref.ref] = []
    held = []

    def noted(array):
        arrays.append(weakref.ref(array))
        held.append(sum(ref() is not None for ref in arrays))

    def answered(*arguments):
        found = answer(*arguments)
        noted(found.image)
        return found

    def marked(*arguments):
        found = region(*arguments)
        noted(found)
        return found

    monkeypatch.setattr(ExactTruth, "read_answer", answered)
    monkeypatch.setattr(ConditionRegions, "read_region", marked)
    for scored in (
        lambda: compute_influence(run, ["garment"], regions=ConditionRegions(raw)),
        lambda: compute_truth_scores(run, ExactTruth(raw), {"unpaired": tmp_path / "pred"}),
    ):
        held.clear()
        scored()
        assert len(held) >= COUNT and max(held) <= 2
