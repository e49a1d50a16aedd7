"""Numbers that are none, in files that are read back and in settings made by a program."""

import dataclasses
import json

import pytest
from runtime_types import unchecked
from small_settings import make_loss_settings, make_optimizer_settings, make_train_settings
from tiny_training import SETTINGS

import convert_weights
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.core.value_rules import MAX_COUNT
from omfa_jax.diffusion.schedule import ScheduleSettings, TimestepDistribution
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig
from omfa_jax.studies.study_manifest import (
    ModelSize,
    Study,
    StudyGrid,
    expand_grid,
    read_study,
    write_study,
)

NAN, INF = float("nan"), float("inf")
CAMERA = make_look_at_camera((0, 0, 4), (0, 0, 0), focal_px=100.0, width_px=48, height_px=64)


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: make_optimizer_settings(learning_rate=bad),
        lambda bad: make_optimizer_settings(weight_decay=bad),
        lambda bad: make_optimizer_settings(clip_norm=bad),
        lambda bad: make_loss_settings(min_snr_gamma=bad),
        lambda bad: make_loss_settings(condition_dropout=bad),
        lambda bad: TimestepDistribution("logit_normal", logit_mean=bad),
        lambda bad: TimestepDistribution("logit_normal", logit_std=bad),
        lambda bad: make_train_settings(1, 1, ema_decay=bad),
        lambda bad: make_train_settings(1, bad),
        lambda bad: make_train_settings(bad, 1),
        lambda bad: make_train_settings(1, 1, seed=bad),
        lambda bad: ScheduleSettings(beta_end=bad),
        lambda bad: Task("try_on", ("person",), bad, ""),
        lambda bad: VAEConfig(scaling_factor=bad),
        lambda bad: dataclasses.replace(SETTINGS, stride=bad),
        lambda bad: dataclasses.replace(CAMERA, width_px=bad),
        lambda bad: dataclasses.replace(CAMERA, focal_px=(bad, 1.0)),
    ],
)
def test_settings_of_a_program_are_numbers(make):
    for bad in (NAN, INF, -INF, -1e9, 1e300):
        with unchecked(), pytest.raises(OmfaError):
            make(bad)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stride": 0}, "stride"),
        ({"latent_channels": -4}, "latent_channels"),
        ({"latent_channels": "4"}, "latent_channels"),
        ({"schedule": {"beta_end": NAN}}, "beta_end"),
        ({"schedule": {"train_steps": 1e3}}, "train_steps"),
    ],
)
def test_a_model_description_holds_numbers(change, word):
    good = json.loads(json.dumps(SETTINGS.to_json()))
    assert DiffusionSettings.from_json(good) == SETTINGS
    bad = {**good, **change}
    if "schedule" in change:
        bad["schedule"] = {**good["schedule"], **change["schedule"]}
    with pytest.raises(OmfaError, match=word):
        DiffusionSettings.from_json(bad)


def study():
    size = ModelSize("tiny", params=1000, flops_per_sample=1e6)
    grid = StudyGrid((640,), (), (1e-3,), batch_size=8, dataset_size=64)
    runs, left_out = expand_grid([size], grid, chips=1, price=None)
    return Study("base.py", "", None, runs, left_out)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", None),
        ("steps", 0),
        ("steps", 10**12),
        ("batch_size", 8.5),
        ("learning_rate", NAN),
        ("learning_rate", INF),
        ("learning_rate", "1e-3"),
        ("epochs", NAN),
        ("flops", -1.0),
        ("name", "../../precious"),
        ("name", ""),
    ],
)
def test_a_studys_manifest_holds_numbers_and_names(tmp_path, name, value):
    write_study(tmp_path, study())
    path = next(tmp_path.glob("*.json"))
    assert read_study(tmp_path) == study()
    content = json.loads(path.read_text())
    content["runs"][0][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(OmfaError, match=f"damaged .*{name}") as told:
        read_study(tmp_path)
    assert "\n" not in str(told.value)


def test_a_run_has_no_more_steps_than_are_counted():
    size = ModelSize("tiny", params=1000, flops_per_sample=1e6)
    grid = StudyGrid((10**13,), (), (1e-3,), batch_size=8, dataset_size=64)
    runs, (left,) = expand_grid([size], grid, chips=1, price=None)
    assert not runs and f"more than the maximum of {MAX_COUNT}" in left


def test_ctrl_c_while_converting_is_one_line(monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("omfa_jax.weights.torch_sources.open_source", interrupt)
    assert convert_weights.main(["import", "x", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "convert_weights: interrupted\n"
