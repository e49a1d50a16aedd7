"""Which of a source's statements a config must agree with: pure logic, without any weights."""

import numpy as np
import pytest
from tiny_problem import settings

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import ScheduleSettings
from omfa_jax.weights.agreement import compare
from omfa_jax.weights.scheduler import in_scheduler_config, in_single_file, stated_scale
from omfa_jax.weights.tensors import Tensors

IDM_VTON = {
    "_class_name": "DDPMScheduler",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def agree(fields, *, prediction="epsilon", ignore=False, **schedule):
    ours = settings(prediction=prediction, schedule=ScheduleSettings(**schedule))
    return compare(in_scheduler_config(fields), ours, "source", ignore=ignore)


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
    with pytest.raises(OmfaError, match=r"set config\.diffusion\.steps_offset=0"):
        agree({**said, "timestep_spacing": "leading"}, prediction="v")


def test_what_is_ignored_is_a_note():
    (note,) = agree({"prediction_type": "v_prediction"}, ignore=True)
    assert note.startswith("--config.model.ignore_scheduler=true: trained all the same, though")
    assert "prediction_type='v_prediction'" in note


def test_tables_that_are_no_numbers_are_not_read():
    """A quantised file is refused for its networks; nothing else of it may raise before."""

    def read(_):
        raise TypeError("no such dtype")

    keys = ("betas", "alphas_cumprod", "denoiser.sigmas")
    shapes = {**dict.fromkeys(keys, (1000,)), "scale_factor": ()}
    faulty = dict.fromkeys(shapes, "is F8_E4M3")
    assert in_single_file(Tensors("file", shapes, read, faulty)) == ()
    assert stated_scale(Tensors("file", shapes, read, faulty)) is None


def test_impossible_values_are_told_and_never_raise():
    odd = {"trained_betas": "abc", "prediction_type": 3, "beta_start": [1], "steps_offset": "x"}
    with pytest.raises(OmfaError) as refused:
        agree(odd)
    assert "trained_betas='abc'" in str(refused.value) and "prediction_type=3" in str(refused.value)
    for values in ("abc", [], [float("nan")] * 1000, [[1, 2], [3]], {"a": 1}):
        with pytest.raises(OmfaError, match="another noise schedule than SDXL's"):
            agree({"trained_betas": values})
    nan = Tensors("file", {"betas": (1000,)}, lambda _: np.full(1000, np.nan, np.float32))
    assert in_single_file(nan)[0].field == "process"
