"""What a rerun keeps of an earlier scores file, and when it does not; a torchvision that fits."""

import builtins
import dataclasses
import sys

import numpy as np
import pytest
from eval_folders import folder, pair_of_folders, picture
from PIL import Image

from omfa_jax.cli.main import main
from omfa_jax.evals.file_matching import match_files
from omfa_jax.evals.kept_blocks import (
    GARMENTS,
    PREDICTIONS,
    compute_judged_digests,
    hash_file,
)
from omfa_jax.evals.metric_runner import MetricRunner
from omfa_jax.evals.metric_weights import (
    MetricUnavailableError,
    format_matching_torchvision,
    require_torchvision,
)
from omfa_jax.evals.scores_file import Metric, read_scores, write_scores

JUDGE = Metric(7.5, "higher", "Judge (0-10)")


@pytest.fixture
def judged(tmp_path):
    """A scored folder; the judge's scores of a real run are put into its file by hand."""
    pair_of_folders(tmp_path, count=3)
    folder(tmp_path / "cloth", {f"{i:03}.png": picture(10 + i) for i in range(3)})
    (tmp_path / "pairs.txt").write_text("".join(f"00{i}.png 00{i}.png 0\n" for i in range(3)))
    assert score(tmp_path) == 0
    return tmp_path


def score(root, *, garments=True, **given):
    words = ["eval", f"--pred={root / 'pred'}", f"--gt={root / 'gt'}", "--protocol=omfa"]
    if garments:
        words += [f"--garments={root / 'cloth'}", f"--pairs={root / 'pairs.txt'}"]
    given = {"metrics": "psnr", **given}
    words += [f"--out={root / 's.json'}", "--workers=1"]
    return main([*words, *(f"--{name}={value}" for name, value in given.items())])


def add_judge(root, judge):
    scores = read_scores(root / "s.json")
    rows = scores.per_image
    values = {**rows.values, "judge": (7.0, None, 8.0)}
    upper = scores.categories["upper"]
    write_scores(
        root / "s.json",
        dataclasses.replace(
            scores,
            judge=judge,
            influence={"garment": {"gain": 1.0}},
            metrics={**scores.metrics, "judge": JUDGE},
            categories={"upper": dataclasses.replace(upper, metrics={"judge": JUDGE})},
            per_image=dataclasses.replace(rows, values=values),
        ),
    )


def make_digests(root):
    """What a run of the judge stores, here from a run that keeps everything."""
    matched = match_files(
        root / "pred", root / "gt", garments=root / "cloth", pairs=root / "pairs.txt"
    )
    return compute_judged_digests(matched.scored, "paired", hash_file)


@pytest.mark.parametrize("with_digests", [True, False])
def test_a_rerun_without_a_judge_keeps_its_block(judged, with_digests, caplog):
    judge = {"model": "m", "cost_usd": 1.5} | (make_digests(judged) if with_digests else {})
    add_judge(judged, judge)
    caplog.set_level("INFO")
    # also from a shell without the flags of the garments
    for garments in (True, False):
        assert score(judged, garments=garments, seed=int(garments)) == 0
        scores = read_scores(judged / "s.json")
        assert scores.judge == judge and scores.metrics["judge"] == JUDGE
        assert scores.influence == {"garment": {"gain": 1.0}}
        assert scores.per_image.values["judge"] == (7.0, None, 8.0)
        assert scores.metrics["psnr"].value
        if garments:
            assert scores.categories["upper"].metrics["judge"] == JUDGE
    assert "kept the judge and influence of an earlier run on the same images" in caplog.text


@pytest.mark.parametrize("with_digests", [True, False])
def test_other_predictions_drop_it_with_a_word(judged, with_digests, caplog):
    add_judge(judged, make_digests(judged) if with_digests else {"model": "m"})
    Image.fromarray(picture(77)).save(judged / "pred" / "001.png")
    assert score(judged) == 0
    scores = read_scores(judged / "s.json")
    assert scores.judge is None and "judge" not in scores.metrics
    assert "dropped the judge and influence of an earlier run on other images" in caplog.text


def test_other_garments_drop_the_judge_alone(judged):
    digests = make_digests(judged)
    assert set(digests) == {PREDICTIONS, GARMENTS}
    add_judge(judged, digests)
    Image.fromarray(picture(77)).save(judged / "cloth" / "001.png")
    assert score(judged) == 0
    scores = read_scores(judged / "s.json")
    assert scores.judge is None and scores.influence is not None


@pytest.fixture
def unfit_torchvision(monkeypatch):
    """A torchvision that was built for another torch."""

    def refuse(name, *rest, **more):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nsecond line")
        return original(name, *rest, **more)

    original = builtins.__import__
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_torchvision_of_another_torch_is_one_line_with_the_one_that_fits(unfit_torchvision):
    with pytest.raises(MetricUnavailableError) as told:
        require_torchvision()
    assert "does not fit torch 2." in str(told.value) and "\n" not in str(told.value)
    assert "install torchvision==0." in str(told.value)


def test_eval_says_so_once_before_it_scores_and_in_the_table(
    judged, unfit_torchvision, monkeypatch, caplog, capsys
):
    # as if the packages were there, wherever this runs
    for module in ("metrics.perceptual_metrics", "metrics.feature_extractors"):
        monkeypatch.setattr(f"omfa_jax.evals.{module}.require_library", lambda name: None)
    said_before, plan = [], MetricRunner.plan

    def watch(*given):
        said_before.extend(caplog.messages)
        return plan(*given)

    monkeypatch.setattr(MetricRunner, "plan", watch)
    capsys.readouterr()
    assert score(judged, metrics="lpips,fid,psnr") == 0
    (line,) = [line for line in said_before if line.startswith("not computed")]
    assert line.startswith("not computed: lpips, fid: torchvision") and "==0." in line
    table = capsys.readouterr().out
    assert table.count("does not fit torch") == 2 and "PSNR (dB)" in table


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [
        ("2.13.0+cpu", "torchvision==0.28.*"),
        ("2.4.1", "torchvision==0.19.*"),
        ("3.0", "its release"),
    ],
)
def test_releases_that_belong_together(torch, torchvision):
    assert torchvision in format_matching_torchvision(torch)


def test_values_are_read_as_written(judged):
    # the file of a rerun equals that of the first run but for its time
    before = read_scores(judged / "s.json")
    assert score(judged) == 0
    after = read_scores(judged / "s.json")
    assert dataclasses.replace(after, created=before.created) == before
    assert np.isfinite(after.per_image.values["psnr"]).all()
