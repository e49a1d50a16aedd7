"""Which of a source's statements a config must agree with: pure logic, without any weights."""

import ast
import inspect
import re

import diffusers
import numpy as np
import pytest
from tiny_problem import settings

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import ScheduleSettings, compute_alphas_cumprod
from omfa_jax.weights.scheduler_agreement import SAMPLER_DEFAULTS, check_agreement, describe_source
from omfa_jax.weights.scheduler_statements import (
    DISCRETE_SCHEDULERS,
    READ_KEYS,
    parse_scheduler_config,
    parse_single_file,
    read_vae_scale,
)
from omfa_jax.weights.torch_tensors import LazyTensors

IDM_VTON = {
    "_class_name": "DDPMScheduler",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
ALPHAS = compute_alphas_cumprod(ScheduleSettings())
BETAS = 1 - ALPHAS / np.append(1, ALPHAS[:-1])


def agree(fields, *, prediction="epsilon", ignore=False, **schedule):
    ours = settings(prediction=prediction, schedule=ScheduleSettings(**schedule))
    return check_agreement(parse_scheduler_config(fields), ours, "source", ignore=ignore)


def test_idm_vtons_schedule_asks_for_one_key():
    with pytest.raises(OmfaError) as refused:
        agree(IDM_VTON)
    assert "set config.diffusion.zero_terminal_snr=True, or give" in str(refused.value)
    assert agree(IDM_VTON, zero_terminal_snr=True) == ()


def test_epsilon_in_pure_noise_has_one_spacing_whatever_the_sources_sampler():
    assert agree({**IDM_VTON, "timestep_spacing": "trailing"}, zero_terminal_snr=True) == ()


def test_an_offset_counts_for_leading_timesteps_alone():
    said = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 0}
    assert agree(said, prediction="v", spacing="trailing") == ()
    (note,) = agree({**said, "timestep_spacing": "leading"}, prediction="v")
    assert note == (
        "source is sampled with steps_offset=0 (scheduler_config.json: steps_offset=0), this config"
        " samples with steps_offset=1: give --config.diffusion.steps_offset=0 to sample it"
        " the same way"
    )


def test_zero_terminal_snr_with_v_is_better_sampled_to_its_last_timestep():
    said = {**IDM_VTON, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    (note,) = agree(said, prediction="v", zero_terminal_snr=True)
    assert "is sampled with spacing='trailing'" in note
    assert "--config.diffusion.spacing=trailing to sample it the same way" in note
    assert note.endswith("'leading' almost never visits the last timestep, which is pure noise")
    leading = {**said, "timestep_spacing": "leading"}
    for (note,) in (
        agree({"timestep_spacing": "trailing"}),
        agree(leading, prediction="v", zero_terminal_snr=True, spacing="trailing"),
    ):
        assert note.endswith("to sample it the same way")


def test_the_keys_of_a_refusal_make_a_config_that_can_be_sampled():
    with pytest.raises(OmfaError) as refused:
        agree(IDM_VTON, prediction="v", spacing="trailing")
    keys = re.findall(r"config\.diffusion\.(\w+)=(\S+)(?: and|,)", str(refused.value))
    found = {name: ast.literal_eval(value) for name, value in keys}
    assert found == {"prediction": "epsilon", "zero_terminal_snr": True, "spacing": "leading"}
    assert agree(IDM_VTON, **found) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((("timestep_spacing", value)) for value in ("Leading", "uniform", 3, ["leading"], {})),
        *((("steps_offset", value)) for value in (float("inf"), float("nan"), -1, "x", True, 1.5)),
        ("steps_offset", 10**40),
    ],
)
def test_a_samplers_setting_that_there_is_not_is_told_as_unknown(field, value):
    said = {"prediction_type": "epsilon", "timestep_spacing": "leading", field: value}
    (note,) = agree(said)
    assert f"{field}=" in note and "is sampled with an unknown" in note and "--config" not in note
    (trained,) = describe_source(parse_scheduler_config(said), said)
    assert "epsilon-prediction" in trained


def test_a_whole_number_with_a_point_is_one():
    assert agree({"prediction_type": "epsilon", "steps_offset": 1.0}) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"timestep_type": "continuous"},
        {"sigma_max": 120.0},
        {"sigma_min": 0.002},
        {"snr_shift_scale": 3.0},
        {"shift": 3.0},
        {"snr_shift_scale": 3.0, "trained_betas": BETAS.tolist()},
    ],
)
def test_other_noise_levels_are_another_schedule(fields):
    with pytest.raises(
        OmfaError, match=f"{next(iter(fields))}=.*which config.diffusion cannot express"
    ):
        agree({"prediction_type": "epsilon", **fields})
    usual = {"timestep_type": "discrete", "sigma_max": None, "snr_shift_scale": 1, "shift": 1.0}
    assert agree({"prediction_type": "epsilon", **usual}) == ()


@pytest.mark.parametrize(
    ("value", "field"),
    [
        *((value, None) for value in ("", "None", "null", " ")),
        *((value, "prediction") for value in ("v ", "V_Prediction", " eps")),
        ("sample", "process"),
    ],
)
def test_words_are_read_without_their_spaces_and_nothing_says_nothing(value, field):
    file = LazyTensors("file", {}, None, {}, {"modelspec.prediction_type": value})
    expected = [field] if field else []
    assert [statement.field for statement in parse_single_file(file)] == expected
    assert [s.field for s in parse_scheduler_config({"prediction_type": value})] == expected


@pytest.mark.parametrize("value", [False, "False", "false ", 0, "0", None, "", "None"])
def test_a_flag_that_is_off_is_off_however_it_is_written(value):
    said = {"prediction_type": "epsilon"}
    said |= {"rescale_betas_zero_snr": value, "use_flow_sigmas": value}
    assert agree(said) == ()
    with pytest.raises(OmfaError, match=r"set config\.diffusion\.zero_terminal_snr=True"):
        agree({**said, "rescale_betas_zero_snr": "True"})
    with pytest.raises(OmfaError, match="flow matching"):
        agree({**said, "use_flow_sigmas": "True"})


def test_every_key_that_diffusers_knows_is_read_or_the_samplers_own():
    known = set(READ_KEYS) | set(SAMPLER_DEFAULTS)
    for name in DISCRETE_SCHEDULERS:
        keys = inspect.signature(getattr(diffusers, f"{name}Scheduler").__init__).parameters
        plain = {key: k.default for key, k in keys.items() if k.kind is k.POSITIONAL_OR_KEYWORD}
        assert plain.keys() - {"self"} <= known, name
    said = {"wavelets": 3, "final_sigmas_type": "sigma_min", "solver_order": 2, "skew": None}
    said["clip_sample"] = "False"
    assert describe_source((), said)[1:] == (
        "scheduler_config.json: final_sigmas_type not read (they affect only its own sampler)",
        "scheduler_config.json: not read: wavelets=3",
    )


def test_what_is_ignored_is_a_note():
    (note,) = agree({"prediction_type": "v_prediction"}, ignore=True)
    assert note.startswith("--config.model.ignore_scheduler=true: training anyway, although")
    assert "prediction_type='v_prediction'" in note


def test_tables_that_are_no_numbers_are_not_read():
    """A quantised file is refused for its networks; nothing else of it may raise before."""

    def read(_):
        raise TypeError("no such dtype")

    keys = ("betas", "alphas_cumprod", "denoiser.sigmas")
    shapes = {**dict.fromkeys(keys, (1000,)), "scale_factor": ()}
    faulty = dict.fromkeys(shapes, "is F8_E4M3")
    assert parse_single_file(LazyTensors("file", shapes, read, faulty)) == ()
    assert read_vae_scale(LazyTensors("file", shapes, read, faulty)) is None


def test_impossible_values_are_told_and_never_raise():
    odd = {"trained_betas": "abc", "prediction_type": 3, "beta_start": [1], "steps_offset": "x"}
    with pytest.raises(OmfaError) as refused:
        agree(odd)
    assert "trained_betas='abc'" in str(refused.value) and "prediction_type=3" in str(refused.value)
    for values in ("abc", [], [float("nan")] * 1000, [[1, 2], [3]], {"a": 1}):
        with pytest.raises(OmfaError, match="a noise schedule other than SDXL's"):
            agree({"trained_betas": values})
    nan = LazyTensors("file", {"betas": (1000,)}, lambda _: np.full(1000, np.nan, np.float32))
    assert parse_single_file(nan)[0].field == "process"
