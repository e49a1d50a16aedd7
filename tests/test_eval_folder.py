"""Scoring folders: known answers, what must not change a number, resuming, what is reported."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from eval_folders import folder, pair_of_folders, picture, worse, write_clip, write_vit
from PIL import Image
from torchvision_shim import import_torchvision

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals import folder_scoring as scoring
from omfa_jax.evals import image_preparation, metric_runner
from omfa_jax.evals.folder_scoring import ScoreRequest, score_folder
from omfa_jax.evals.protocol_spec import MetricSpec, load_protocol
from omfa_jax.evals.score_comparison import compare_scores
from omfa_jax.evals.scores_file import read_scores, write_scores

import_torchvision()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Small random networks, and SqueezeNet (random too) for LPIPS."""
    from torchvision import models

    path = tmp_path_factory.mktemp("networks")
    write_clip(path / "clip-vit-base-patch32")
    write_vit(path / "dino-vits16")
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path / "squeezenet1_1-b8a52dc0.pth")
    return path


@pytest.fixture
def small(monkeypatch):
    """The `omfa` protocol with what runs on small networks: features of CLIP for FID and KID."""
    chosen = load_protocol("omfa")
    paired = chosen.get_metrics("paired")
    clip = chosen.get_metrics("unpaired")["clip_i"].options
    squeeze = dataclasses.replace(paired["lpips"], options={"net": "squeeze", "range": "-1..1"})
    settings = {
        **chosen.settings,
        "paired": {
            **{key: paired[key] for key in ("ssim", "psnr", "clip_fid")},
            "lpips": squeeze,
            "clip_i": MetricSpec("clip_i", "CLIP-I", "higher", "truth", options=clip),
        },
    }
    made = dataclasses.replace(chosen, settings=settings)
    monkeypatch.setattr(scoring, "load_protocol", lambda name: made)


def request(root, networks=None, **changes) -> ScoreRequest:
    made = ScoreRequest(
        pred=root / "pred",
        gt=root / "gt",
        out=root / "scores.json",
        protocol="omfa",
        metric_weights=networks,
        skip_checksum=True,
    )
    return dataclasses.replace(made, **changes)


def numbers(scores) -> dict:
    return {key: (metric.value, metric.interval) for key, metric in scores.metrics.items()}


def test_equal_folders_score_as_equal(tmp_path, networks, small):
    folder(tmp_path / "gt", {f"{i}.png": picture(i) for i in range(4)})
    shutil.copytree(tmp_path / "gt", tmp_path / "pred")
    metrics = score_folder(request(tmp_path, networks)).metrics
    assert metrics["ssim"].value == 1
    assert metrics["psnr"].value == 120
    assert metrics["lpips"].value == 0
    assert metrics["clip_fid"].value == pytest.approx(0, abs=1e-4)
    assert metrics["clip_i"].value == pytest.approx(1)


@pytest.mark.parametrize("kind", ["blur", "noise", "shift"])
def test_every_measure_orders_a_ladder(kind, tmp_path, networks, small):
    truths = {f"{i}.png": picture(i, 64, 48) for i in range(4)}
    folder(tmp_path / "gt", truths)
    rungs = []
    for step in range(4):
        shutil.rmtree(tmp_path / "pred", ignore_errors=True)
        made = {name: worse(image, kind, step) for name, image in truths.items()}
        folder(tmp_path / "pred", made)
        rungs.append(score_folder(request(tmp_path, networks)).metrics)
    for key in ("ssim", "psnr", "lpips", "clip_fid", "clip_i"):
        column = [rung[key].value for rung in rungs]
        ordered = sorted(column, reverse=rungs[0][key].better == "higher")
        assert column == ordered and len(set(column)) == 4, (kind, key, column)


def test_order_batches_and_threads_change_nothing(tmp_path, networks, small, monkeypatch):
    pair_of_folders(tmp_path)
    first = score_folder(request(tmp_path, networks, workers=1, batch_size=1))
    shutil.rmtree(tmp_path / "scores.json.cache")
    # the same pictures, written in another order: names and not the disk's order must count
    for name in ("pred", "gt"):
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        shutil.rmtree(tmp_path / name)
        (tmp_path / name).mkdir()
        for file in reversed(sorted(files)):
            (tmp_path / name / file).write_bytes(files[file])
    torch.set_num_threads(2)
    second = score_folder(request(tmp_path, networks, workers=3, batch_size=7))
    assert torch.get_num_threads() == 2
    assert numbers(first) == numbers(second)
    assert first.per_image == second.per_image
    assert compare_scores(first, second) == []


def test_a_run_that_was_cut_off_goes_on(tmp_path, small, monkeypatch):
    """(bench/evaluate.py shows the same with kill -9.)"""
    pair_of_folders(tmp_path, count=8)
    done = []
    real = scoring.load_metric_fns

    def watched(choices, *rest):
        made = real(choices, *rest)
        computer = made.by_metric["ssim"]

        def function(*pictures):
            done.append(1)
            if len(done) == 5:
                raise KeyboardInterrupt
            return computer.function(*pictures)

        replaced = dataclasses.replace(computer, function=function)
        return dataclasses.replace(made, by_metric={**made.by_metric, "ssim": replaced})

    monkeypatch.setattr(scoring, "load_metric_fns", watched)
    with pytest.raises(KeyboardInterrupt):
        score_folder(request(tmp_path, workers=1, batch_size=2))
    assert not (tmp_path / "scores.json").exists()
    before = len(done)
    resumed = score_folder(request(tmp_path, workers=1, batch_size=2))
    assert len(done) - before == 8 - 4
    shutil.rmtree(tmp_path / "scores.json.cache")
    assert numbers(score_folder(request(tmp_path))) == numbers(resumed)


def test_the_cache_follows_content_weights_and_protocol(tmp_path, networks, small):
    pred, _ = pair_of_folders(tmp_path, count=3)
    before = numbers(score_folder(request(tmp_path, networks)))
    Image.fromarray(picture(77)).save(pred / "000.png")
    after = numbers(score_folder(request(tmp_path, networks)))
    assert all(before[key] != after[key] for key in before)
    shutil.rmtree(tmp_path / "scores.json.cache")
    assert numbers(score_folder(request(tmp_path, networks))) == after
    spaces = set((tmp_path / "scores.json.cache").iterdir())
    other = tmp_path / "networks"
    shutil.copytree(networks, other)
    torch.manual_seed(9)
    file = other / "squeezenet1_1-b8a52dc0.pth"
    state = torch.load(file, weights_only=True)
    torch.save({name: value * 1.1 for name, value in state.items()}, file)
    changed = numbers(score_folder(request(tmp_path, other)))
    assert changed["lpips"] != after["lpips"] and changed["ssim"] == after["ssim"]
    assert len(set((tmp_path / "scores.json.cache").iterdir()) - spaces) == 1


def test_what_is_not_there_is_said_and_the_rest_is_scored(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    pair_of_folders(tmp_path)
    scores = score_folder(request(tmp_path))
    metrics = scores.metrics
    assert metrics["ssim"].value and metrics["psnr"].value
    for key, file in (("lpips", "alexnet"), ("fid", "inception"), ("clip_fid", "clip-vit")):
        assert metrics[key].value is None and file in str(metrics[key].not_computed)
    assert scores.weights == {}
    assert read_scores(tmp_path / "scores.json") == scores


def test_unpaired_compares_with_the_garment_and_with_all_ground_truth(tmp_path, networks):
    pair_of_folders(tmp_path, count=4)
    folder(tmp_path / "cloth", {f"g{i}.png": picture(20 + i) for i in range(4)})
    lines = [f"{i:03}.jpg g{3 - i}.jpg {category}" for i, category in enumerate("0012")]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    given = {"setting": "unpaired", "pairs": tmp_path / "pairs.txt"}
    asked = request(tmp_path, networks, garments=tmp_path / "cloth", **given)
    scores = score_folder(asked)
    for key in ("clip_i", "dino"):
        assert scores.metrics[key].value == pytest.approx(np.mean(scores.per_image.values[key]))
    assert set(scores.per_image.values) == {"clip_i", "dino"}
    # the garment itself as prediction is as near to the garment as can be
    for index in range(4):
        shutil.copy(tmp_path / f"cloth/g{3 - index}.png", tmp_path / f"pred/{index:03}.png")
    assert score_folder(asked).metrics["clip_i"].value == pytest.approx(1)
    assert {name: row.count for name, row in scores.categories.items()} == {
        "upper": 2,
        "lower": 1,
        "dress": 1,
    }
    assert scores.categories["lower"].metrics["clip_fid"].not_computed
    without = score_folder(request(tmp_path, networks, out=tmp_path / "b.json", setting="unpaired"))
    assert "--garments" in str(without.metrics["clip_i"].not_computed)
    assert without.metrics["clip_fid"].value is not None


def test_missing_extra_and_wrong_sizes_are_errors_or_reported(tmp_path, small):
    pred, _ = pair_of_folders(tmp_path, count=4)
    (pred / "003.png").rename(pred / "other.png")
    with pytest.raises(OmfaError, match=r"1 missing \(003\), 1 extra \(other\)"):
        score_folder(request(tmp_path))
    Image.fromarray(picture(2)[:48, :48]).save(pred / "002.png")
    scores = score_folder(request(tmp_path, allow_missing=True))
    counts = scores.counts
    assert (counts.pairs, counts.scored, counts.resized) == (4, 3, 1)
    assert (counts.missing, counts.extra) == (("003",), ("other",))
    (pred / "other.png").rename(pred / "003.png")
    with pytest.raises(OmfaError, match=r"wrong size: 002\.png is 48x48 px, .* 72x96"):
        score_folder(request(tmp_path))


def test_a_truncated_picture_is_named_before_any_work(tmp_path, small, monkeypatch):
    pred, _ = pair_of_folders(tmp_path)
    monkeypatch.setattr(
        metric_runner.MetricRunner, "run", lambda *_, **__: pytest.fail("work was begun")
    )
    whole = (pred / "003.png").read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], b""):
        (pred / "003.png").write_bytes(content)
        with pytest.raises(OmfaError, match=r"003\.png.*nothing was scored"):
            score_folder(request(tmp_path))
    Image.fromarray(picture(3)).save(pred / "003.jpg")
    (pred / "003.png").unlink()
    jpeg = (pred / "003.jpg").read_bytes()
    (pred / "003.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    with pytest.raises(OmfaError, match=r"003\.jpg"):
        score_folder(request(tmp_path))


def test_a_judges_values_have_their_place(tmp_path, small):
    pair_of_folders(tmp_path, count=2)
    scores = score_folder(request(tmp_path))
    rows = dataclasses.replace(
        scores.per_image, values={**scores.per_image.values, "judge": (7.5, None)}
    )
    write_scores(tmp_path / "judged.json", dataclasses.replace(scores, per_image=rows))
    assert read_scores(tmp_path / "judged.json").per_image.values["judge"] == (7.5, None)
    assert json.loads((tmp_path / "judged.json").read_text())["format"] == 1


def test_the_first_look_does_not_decode(tmp_path, monkeypatch):
    pred, _ = pair_of_folders(tmp_path, count=1)
    Image.fromarray(picture(1)).save(pred / "000.jpg")
    monkeypatch.setattr(image_preparation, "open_image", lambda *_: pytest.fail("decoded"))
    facts = [image_preparation.inspect_file(pred / name) for name in ("000.png", "000.jpg")]
    assert {fact.size_px for fact in facts} == {(96, 72)}
