import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDIMScheduler

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import (
    ScheduleSettings,
    TimestepDistribution,
    compute_alphas_cumprod,
    get_alpha_sigma,
    make_sampling_timesteps,
)


def oracle(**changes):
    fields = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**fields, **changes})


def test_sdxl_numbers():
    alpha_bar = compute_alphas_cumprod(ScheduleSettings())
    for t, expected in ((0, 0.99915), (499, 0.27766965), (981, 0.0057755), (999, 0.0046601)):
        assert alpha_bar[t] == pytest.approx(expected, rel=2e-5)
    assert np.sqrt(1 / alpha_bar[999] - 1) == pytest.approx(14.6146, rel=1e-4)


@pytest.mark.parametrize("zero", [False, True])
def test_alphas_match_diffusers(zero):
    expected = oracle(rescale_betas_zero_snr=zero).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(
        compute_alphas_cumprod(ScheduleSettings(zero_terminal_snr=zero)), expected, atol=2e-6
    )


def test_variance_is_preserved():
    alpha, sigma = get_alpha_sigma(ScheduleSettings(), jnp.arange(1000))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [7, 20, 50])
def test_timesteps_match_diffusers(spacing, steps):
    theirs = oracle(timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    ours = make_sampling_timesteps(ScheduleSettings(spacing=spacing), steps)
    np.testing.assert_array_equal(ours, theirs.timesteps.numpy())


def test_sdxl_visits_981_to_1():
    times = make_sampling_timesteps(ScheduleSettings(), 50)
    assert (times[0], times[-1], len(times)) == (981, 1, 50)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts(steps):
    with pytest.raises(OmfaError, match=r"1\.\.1000"):
        make_sampling_timesteps(ScheduleSettings(), steps)


def test_unknown_spacing_is_named():
    with pytest.raises(OmfaError, match="did you mean 'trailing'"):
        ScheduleSettings(spacing="trailin")


def drawn(distribution, count):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: distribution.sample(key, 1000))(keys))


def test_uniform_timesteps_visit_all_alike():
    times = drawn(TimestepDistribution(), 200_000)
    assert (times.min(), times.max()) == (0, 999)
    counts = np.bincount(times, minlength=1000)
    assert abs(counts - 200).max() < 6 * 200**0.5


def test_logit_normal_timesteps_have_its_quantiles():
    chosen = TimestepDistribution("logit_normal", logit_mean=0.5, logit_std=0.8)
    times = drawn(chosen, 100_000) / 1000
    for share, z in ((0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)):
        expected = 1 / (1 + np.exp(-(0.5 + 0.8 * z)))
        assert abs(np.quantile(times, share) - expected) < 0.006
    far = TimestepDistribution("logit_normal", logit_mean=40.0)
    assert drawn(far, 9).max() == 999


def test_other_distributions_are_refused():
    with pytest.raises(OmfaError, match="did you mean 'logit_normal'"):
        TimestepDistribution("logitnormal")
    with pytest.raises(OmfaError, match="logit_std: expected a number above 0"):
        TimestepDistribution("logit_normal", logit_std=0.0)
