"""The scores file: there and back, what is refused, and when two of them do not compare."""

import dataclasses
import json

import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.protocol_spec import load_protocol
from omfa_jax.evals.score_comparison import compare_scores
from omfa_jax.evals.scores_file import (
    REWORDED_CHOICES,
    Category,
    Counts,
    Folders,
    Metric,
    PerImage,
    ProtocolRecord,
    Scores,
    WeightsFile,
    read_scores,
    write_scores,
)

SSIM = Metric(0.88, "higher", "SSIM", interval=(0.87, 0.89), interval_kind="bootstrap 95%")
KID = Metric(1.5, "lower", "KID", scale=1000)
ABSENT = Metric(None, "lower", "FID", not_computed="weights are missing")


def scores(**changes) -> Scores:
    made = Scores(
        method="catvton",
        created="2026-11-28T13:00:00Z",
        protocol=ProtocolRecord("omfa", "paired", {"height": 1024}),
        versions={"omfa_jax": "0.1.0"},
        weights={"alex": WeightsFile("alexnet-owt-7be5be79.pth", "7be5")},
        seed=0,
        folders=Folders("p", "g", gt_sha256="aa"),
        counts=Counts(3, 2, missing=("c",)),
        metrics={"ssim": SSIM, "kid": KID, "fid": ABSENT},
        categories={"upper": Category(2, {"ssim": SSIM})},
        per_image=PerImage(("a", "b"), ("upper", "upper"), {"ssim": (0.9, None)}),
        judge={"model": "m"},
    )
    return dataclasses.replace(made, **changes)


def test_there_and_back(tmp_path):
    write_scores(tmp_path / "s.json", scores())
    assert read_scores(tmp_path / "s.json") == scores()
    assert scores().metrics["kid"].raw == pytest.approx(0.0015)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"x": Metric(float("nan"), "higher", "X")}}, "finite"),
        ({"metrics": {"x": Metric(None, "higher", "X")}}, "either a value or a reason"),
        ({"metrics": {"x": Metric(0.0, "higher", "X", not_computed="why")}}, "reason"),
        ({"metrics": {"x": Metric(0.0, "up", "X")}}, "better"),
        ({"per_image": PerImage(("a",), (), {"ssim": (1.0, 2.0)})}, "expected 1"),
        ({"per_image": PerImage(("a",), ("x", "y"))}, "expected 1"),
        ({"protocol": ProtocolRecord("omfa", "pared")}, "not one of paired"),
    ],
)
def test_nonsense_is_not_written(tmp_path, change, message):
    with pytest.raises(OmfaError, match=message):
        write_scores(tmp_path / "s.json", scores(**change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "\x00\x01"])
def test_what_is_no_scores_file_is_one_line(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(OmfaError) as caught:
        read_scores(tmp_path / "s.json")
    assert "s.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_field_too_many_or_a_nan_is_refused(tmp_path):
    write_scores(tmp_path / "s.json", scores())
    content = json.loads((tmp_path / "s.json").read_text())
    for change in ({"surprise": 1}, {"metrics": {"x": {"value": 1.0}}}, {"seed": float("nan")}):
        (tmp_path / "s.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(OmfaError, match=r"s\.json"):
            read_scores(tmp_path / "s.json")


def test_equal_reports_compare_and_each_difference_is_told():
    assert (
        compare_scores(
            scores(), scores(method="omfa", metrics={"kid": KID, "ssim": SSIM, "fid": ABSENT})
        )
        == []
    )
    differences = {
        "protocol differs": {"protocol": ProtocolRecord("temu", "paired", {"height": 1024})},
        "setting differs": {"protocol": ProtocolRecord("omfa", "unpaired", {"height": 1024})},
        "choice height differs": {"protocol": ProtocolRecord("omfa", "paired", {"height": 512})},
        "version of omfa_jax": {"versions": {"omfa_jax": "0.2.0"}},
        "SHA-256 of weights alex": {"weights": {"alex": WeightsFile("alex.pth", "0000")}},
        "seed differs": {"seed": 1},
        "number of pairs": {"counts": Counts(4, 2)},
        "number of scored": {"counts": Counts(3, 3)},
        "scale of kid": {"metrics": {**scores().metrics, "kid": Metric(0.0015, "lower", "KID")}},
        "ground truth differs": {"folders": Folders("p", "g", gt_sha256="bb")},
        "names are not in every file": {"per_image": PerImage(("a", "c"))},
        "not complete": {"complete": False},
    }
    for expected, change in differences.items():
        found = compare_scores(scores(), scores(method="other", **change))
        assert len(found) == 1 and expected in found[0], (expected, found)


@pytest.mark.parametrize("name", ["tryoffdiff", "temu"])
def test_choices_in_an_older_wording_compare_as_equal(tmp_path, name):
    now = load_protocol(name).flatten_choices("try_off")
    before = json.dumps(now)
    for old, new in REWORDED_CHOICES.items():
        before = before.replace(new, old)
    assert before.count("picture") >= 2
    old = scores(protocol=ProtocolRecord(name, "try_off", json.loads(before)))
    write_scores(tmp_path / "old.json", old)
    new = scores(protocol=ProtocolRecord(name, "try_off", now), method="other")
    assert compare_scores(read_scores(tmp_path / "old.json"), new) == []
