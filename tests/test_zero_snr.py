"""Epsilon on a schedule that ends in pure noise, as IDM-VTON was trained: all of it is finite."""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_settings import make_loss_settings
from tiny_model import make_tiny_model
from tiny_problem import settings
from tiny_training import CountingBatches

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.diffusion.loss import compute_loss_weight
from omfa_jax.diffusion.partial import MIN_ALPHA, predict_x0_and_eps
from omfa_jax.diffusion.schedule import ScheduleSettings, compute_alphas_cumprod, get_alpha_sigma
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.train.objective import make_diffusion_objective
from omfa_jax.weights.model_folder import make_ddim_config

ZERO = ScheduleSettings(zero_terminal_snr=True)
PLAIN = ScheduleSettings()
T = jnp.arange(1000)
KEY = jax.random.key(0)


def test_tweedie_is_finite_in_pure_noise_and_unchanged_elsewhere():
    for schedule in (ZERO, PLAIN):
        alpha, sigma = get_alpha_sigma(schedule, T)
        xt, output = jax.random.normal(jax.random.key(0), (2, 1000, 2, 2, 1))
        x0, eps = predict_x0_and_eps("epsilon", output, xt, alpha, sigma)
        assert np.isfinite(x0).all() and (eps == output).all()
        plain = (xt - sigma[:, None, None, None] * output) / alpha[:, None, None, None]
        same = np.isfinite(plain).all(axis=(1, 2, 3))
        assert same.sum() == (999 if schedule is ZERO else 1000)
        np.testing.assert_array_equal(x0[same], plain[same])
    assert np.sqrt(compute_alphas_cumprod(ZERO))[998] > MIN_ALPHA


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_weights_are_finite_at_every_timestep(prediction, gamma):
    weights = np.asarray(compute_loss_weight(prediction, gamma, *get_alpha_sigma(ZERO, T)))
    assert np.isfinite(weights).all() and (weights >= 0).all()
    assert prediction == "v" or weights[-1] == 1


class Last:
    """Every example is pure noise."""

    def sample(self, key, train_steps):
        return jnp.int32(train_steps - 1)


def test_training_in_pure_noise_has_a_finite_loss_and_gradient():
    s = settings(slots_px=((32, 32), (32, 32), (16, 16)), schedule=ZERO)
    loss = dataclasses.replace(
        make_loss_settings(min_snr_gamma=5.0, condition_dropout=0.0), timesteps=Last()
    )

    def apply(params, inputs, t, rows, prompts):
        return inputs @ params

    objective = make_diffusion_objective(s, loss, apply, lambda _, images: images)
    batch = jax.tree.map(jnp.asarray, {**next(CountingBatches()), "row": np.arange(8)})
    start = jnp.zeros((s.in_channels, s.out_channels))
    run = jax.jit(jax.value_and_grad(lambda p: objective(p, {"prompts": {}}, batch, KEY, 0)[0]))
    value, gradient = run(start)
    # the noise itself is the target, and there is nothing else in the noised part
    assert value == pytest.approx(1.0, abs=0.1) and np.isfinite(gradient).all()
    perfect = start.at[:4, :4].set(jnp.eye(4))
    assert run(perfect)[0] < 1e-12


def test_exports_say_it_to_diffusers():
    s = settings(schedule=ZERO)
    scheduler = diffusers.DDIMScheduler.from_config(make_ddim_config(s))
    assert scheduler.config.prediction_type == "epsilon" and scheduler.config.rescale_betas_zero_snr
    np.testing.assert_allclose(scheduler.alphas_cumprod, compute_alphas_cumprod(ZERO), atol=2e-6)
    scheduler.set_timesteps(50)
    assert int(scheduler.timesteps[0]) == 981


def test_a_sampler_that_would_begin_in_pure_noise_is_refused_before_it_compiles():
    model = make_tiny_model()
    tiny = dataclasses.replace(model.settings, prediction="epsilon", schedule=ZERO)
    model = dataclasses.replace(model, settings=tiny)
    Sampler(model, SamplerSettings(50))
    with pytest.raises(OmfaError, match="500 'leading' timesteps start at 999, which is"):
        Sampler(model, SamplerSettings(500))
