"""The invariants of partial diffusion (docs/method.md)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny_problem import channel_settings, mixing_network, settings

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import make_noised_table
from omfa_jax.diffusion.condition_dropout import drop_conditions
from omfa_jax.diffusion.denoising_loop import SamplerSettings, sample
from omfa_jax.diffusion.loss import compute_loss_weight, masked_mean
from omfa_jax.diffusion.partial import (
    compute_target,
    corrupt,
    count_input_channels,
    make_network_input,
    predict_x0_and_eps,
)
from omfa_jax.diffusion.samplers import SAMPLERS
from omfa_jax.diffusion.schedule import ScheduleSettings, get_alpha_sigma

LAYOUTS = [settings(), channel_settings()]
IDS = ["spatial", "channel"]


def problem(s, batch=3):
    keys = jax.random.split(jax.random.key(1), 3)
    shape = (batch, *s.canvas.shape)
    x0, eps, pose = (jax.random.normal(key, shape) for key in keys)
    t = jnp.array([10, 500, 990])[:batch]
    noised = jnp.asarray(make_noised_table(s.tasks))[:batch]
    return x0, eps, pose, t, *get_alpha_sigma(s.schedule, t), s.canvas.make_mask(noised), noised


@pytest.mark.parametrize("s", LAYOUTS, ids=IDS)
def test_full_mask_is_plain_diffusion(s):
    x0, eps, _, t, alpha, sigma, mask, _ = problem(s)
    xt = corrupt(x0, eps, jnp.ones_like(mask), alpha, sigma)
    noisy = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    ).add_noise(*(torch.tensor(np.asarray(a)) for a in (x0, eps)), torch.tensor(np.asarray(t)))
    np.testing.assert_allclose(xt, noisy.numpy(), atol=2e-6)


@pytest.mark.parametrize("s", LAYOUTS, ids=IDS)
def test_empty_mask_returns_the_input(s):
    x0, eps, _, _, alpha, sigma, mask, _ = problem(s)
    np.testing.assert_array_equal(corrupt(x0, eps, jnp.zeros_like(mask), alpha, sigma), x0)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_right_output_gives_back_x0_and_eps(prediction):
    s = settings()
    x0, eps, _, _, alpha, sigma, mask, _ = problem(s)
    everywhere = jnp.ones_like(mask)
    xt = corrupt(x0, eps, everywhere, alpha, sigma)
    output = compute_target(prediction, x0, eps, alpha, sigma)
    x0_hat, eps_hat = predict_x0_and_eps(prediction, output, xt, alpha, sigma)
    np.testing.assert_allclose(x0_hat, x0, atol=2e-5)
    np.testing.assert_allclose(eps_hat, eps, atol=2e-5)


@pytest.mark.parametrize("s", LAYOUTS, ids=IDS)
def test_gradient_is_zero_off_the_mask(s):
    x0, eps, _, _, _, _, mask, _ = problem(s)
    grad = jax.grad(lambda output: masked_mean((output - eps) ** 2, mask).mean())(x0)
    inside = jnp.broadcast_to(mask, x0.shape)
    assert not grad[~inside].any()
    assert (grad[inside] != 0).all()


@pytest.mark.parametrize("s", LAYOUTS, ids=IDS)
def test_loss_is_the_mean_over_the_mask_of_each_example(s):
    x0, _, _, _, _, _, mask, _ = problem(s)
    inside = np.broadcast_to(mask, x0.shape)
    expected = [float(np.mean(np.asarray(x0[i] ** 2)[inside[i]])) for i in range(3)]
    np.testing.assert_allclose(masked_mean(x0**2, mask), expected, rtol=1e-5)
    np.testing.assert_array_equal(masked_mean(x0**2, jnp.zeros_like(mask)), 0.0)


def test_min_snr_weights():
    alpha, sigma = get_alpha_sigma(settings().schedule, jnp.array([0, 300, 999]))
    snr = np.asarray((alpha / sigma) ** 2)
    np.testing.assert_allclose(
        compute_loss_weight("epsilon", 5.0, alpha, sigma), np.minimum(snr, 5) / snr
    )
    np.testing.assert_allclose(
        compute_loss_weight("v", 5.0, alpha, sigma), np.minimum(snr, 5) / (snr + 1)
    )
    np.testing.assert_array_equal(compute_loss_weight("v", None, alpha, sigma), 1.0)
    pure_noise = compute_loss_weight("epsilon", 5.0, jnp.zeros(1), jnp.ones(1))
    np.testing.assert_array_equal(pure_noise, 1.0)
    with pytest.raises(OmfaError, match="above 0 or None, got -1"):
        compute_loss_weight("v", -1.0, alpha, sigma)


@pytest.mark.parametrize("s", LAYOUTS, ids=IDS)
@pytest.mark.parametrize(
    "sampler",
    [
        SamplerSettings(4, 1.0),
        SamplerSettings(4, 2.0),
        SamplerSettings(4, 2.0, "euler", 0.7),
        SamplerSettings(4, 2.0, "dpmpp_2m", 0.7),
    ],
    ids=lambda s: f"{s.sampler}-{s.guidance}",
)
def test_clean_components_leave_the_sampler_bit_equal(s, sampler):
    x0, eps, pose, _, _, _, mask, noised = problem(s)
    network = mixing_network(jax.random.key(2), s.in_channels, s.out_channels)
    out = sample(
        network,
        s,
        sampler,
        noise=eps,
        x0=x0,
        noised=noised,
        pose=pose,
        prompt=jnp.arange(3),
        null_prompt=3,
    )
    clean = ~jnp.broadcast_to(mask, x0.shape)
    np.testing.assert_array_equal(out[clean], x0[clean])
    assert float(jnp.abs(out - x0)[~clean].min()) > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_sees_the_clean_part_bit_equal_at_every_step(name):
    s = settings(schedule=ScheduleSettings(spacing="trailing"))
    x0, eps, pose, _, _, _, mask, noised = problem(s)
    clean = ~jnp.broadcast_to(mask, x0.shape)

    def strict(x, t, prompt):
        same = jnp.all(jnp.where(clean, x[..., :4] == x0, True))
        return jnp.where(same, 0.1 * x[..., :4] + 0.1, jnp.nan)

    out = sample(
        strict,
        s,
        SamplerSettings(4, 1.0, name),
        noise=eps,
        x0=x0,
        noised=noised,
        pose=pose,
        prompt=jnp.arange(3),
        null_prompt=3,
    )
    assert jnp.isfinite(out).all()


def test_the_trajectory_is_kept_only_on_request():
    s = settings()
    x0, eps, pose, _, _, _, mask, noised = problem(s)
    network = mixing_network(jax.random.key(2), s.in_channels, s.out_channels)
    given = dict(noise=eps, x0=x0, noised=noised, pose=pose, prompt=jnp.arange(3), null_prompt=3)
    final, states = sample(network, s, SamplerSettings(4), **given, trajectory=True)
    np.testing.assert_array_equal(final, sample(network, s, SamplerSettings(4), **given))
    assert states.shape == (4, *x0.shape)
    clean = ~jnp.broadcast_to(mask, x0.shape)
    for state in states:
        np.testing.assert_array_equal(state[clean], x0[clean])


@pytest.mark.parametrize("inputs", [("noisy", "mask", "pose"), ("noisy", "mask", "clean", "pose")])
@pytest.mark.parametrize("changed", ["x0", "pose", "prompt"])
def test_swapping_a_condition_changes_the_output(inputs, changed):
    s = settings(unet_inputs=inputs)
    x0, eps, pose, _, _, _, _, noised = problem(s)
    network = mixing_network(jax.random.key(2), s.in_channels, s.out_channels)
    given = {"x0": x0, "pose": pose, "prompt": jnp.arange(3)}
    swapped = {**given, changed: jnp.roll(given[changed], 1, axis=0)}

    def run(g):
        return sample(network, s, SamplerSettings(3), noise=eps, noised=noised, null_prompt=3, **g)

    generated = jnp.broadcast_to(s.canvas.make_mask(noised), x0.shape)
    assert float(jnp.abs(run(given) - run(swapped))[generated].max()) > 1e-3


def test_network_input_follows_unet_inputs():
    s = settings(unet_inputs=("noisy", "mask", "clean", "pose"))
    x0, _, pose, _, _, _, mask, _ = problem(s)
    stacked = make_network_input(s.unet_inputs, s.canvas, x0, mask, pose)
    assert stacked.shape[-1] == s.in_channels == 13
    np.testing.assert_array_equal(stacked[..., :4], x0)
    np.testing.assert_array_equal(stacked[..., 4:5], mask)
    np.testing.assert_array_equal(stacked[..., 5:9], jnp.where(mask, 0, x0))
    np.testing.assert_array_equal(stacked[..., 9:], pose)
    with pytest.raises(OmfaError, match="begin with 'noisy'"):
        count_input_channels(("mask", "noisy"), s.canvas)
    with pytest.raises(OmfaError, match="contain 'mask'"):
        count_input_channels(("noisy", "pose"), s.canvas)
    with pytest.raises(OmfaError, match="did you mean 'pose'"):
        count_input_channels(("noisy", "mask", "posse"), s.canvas)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": "epsilom"}, "did you mean 'epsilon'"),
        ({"slots_px": ((32, 24), (32, 20), (16, 16))}, r"slot of person.*VAE stride 8"),
        ({"slots_px": ((32, 24), (0, 24), (16, 16))}, r"slot of person.*positive"),
        ({"tasks": ()}, "task table is empty"),
    ],
)
def test_settings_that_mean_nothing_are_errors(changes, message):
    with pytest.raises(OmfaError, match=message):
        settings(**changes)


def test_settings_survive_json():
    s = settings(prediction="v", schedule=ScheduleSettings(spacing="trailing", steps_offset=0))
    assert type(s).from_json(json.loads(json.dumps(s.to_json()))) == s


def test_dropped_examples_lose_every_condition_and_nothing_else():
    s = settings()
    x0, _, pose, _, _, _, mask, _ = problem(s)
    drop = jnp.array([True, False, True])
    xt, kept_pose, prompt = drop_conditions(drop, x0, mask, pose, jnp.arange(3), 9)
    inside = jnp.broadcast_to(mask, x0.shape)
    np.testing.assert_array_equal(xt[inside], x0[inside])
    assert not xt[0][~inside[0]].any() and not kept_pose[0].any()
    np.testing.assert_array_equal(xt[1], x0[1])
    np.testing.assert_array_equal(kept_pose[1], pose[1])
    np.testing.assert_array_equal(prompt, [9, 1, 9])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_guidance_is_extrapolation_from_the_null_branch(prediction):
    """One DDIM step with scale s equals the step on eps_u + s (eps_c - eps_u)."""
    s = settings(prediction=prediction)
    x0, eps, pose, _, _, _, mask, noised = problem(s)
    network = mixing_network(jax.random.key(2), s.in_channels, s.out_channels)

    def combined(x, t, prompt):
        null_xt, null_pose, null_prompt = drop_conditions(
            jnp.ones(3, bool), x[..., :4], mask, x[..., 5:], prompt, 3
        )
        null = make_network_input(s.unet_inputs, s.canvas, null_xt, mask, null_pose)
        conditional, unconditional = network(x, t, prompt), network(null, t, null_prompt)
        return unconditional + 3.0 * (conditional - unconditional)

    given = dict(noise=eps, x0=x0, noised=noised, pose=pose, prompt=jnp.arange(3), null_prompt=3)
    guided = sample(network, s, SamplerSettings(5, 3.0), **given)
    by_hand = sample(combined, s, SamplerSettings(5, 1.0), **given)
    np.testing.assert_allclose(guided, by_hand, atol=1e-5)
