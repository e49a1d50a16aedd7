"""Every stepper against diffusers' scheduler of the same name, over whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg
from tiny_problem import mixing_network, settings

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.condition_dropout import drop_conditions
from omfa_jax.diffusion.denoising_loop import SamplerSettings, make_sampler_plan, sample
from omfa_jax.diffusion.guidance import rescale_cfg
from omfa_jax.diffusion.partial import MIN_ALPHA, make_network_input
from omfa_jax.diffusion.samplers import SAMPLERS
from omfa_jax.diffusion.schedule import SPACINGS, ScheduleSettings, make_sampling_timesteps
from omfa_jax.weights.model_folder import make_ddim_config

# raised in diffusers' own set_timesteps by torch and numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TWINS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}
# slots of one height, so that the canvas has no padding and everything can be noised
WHOLE = {"slots_px": ((32, 24), (32, 24), (32, 16))}
EVERYTHING = jnp.ones((3, 3), bool)
PROMPT = jnp.arange(3)


def twin(name, s, steps, **changes):
    """Diffusers' scheduler, made from the config that an exported model carries."""
    scheduler = TWINS[name].from_config(make_ddim_config(s), **changes)
    scheduler.set_timesteps(steps)
    return scheduler


def problem(s):
    noise, pose = jax.random.normal(jax.random.key(1), (2, 3, *s.canvas.shape))
    return noise, pose, jax.jit(mixing_network(jax.random.key(2), s.in_channels, s.out_channels))


def relative_error(name, s, sampler, **changes):
    """Return our run's relative L2 distance to diffusers', with all of the canvas noised.

    The loop is that of diffusers' pipelines: initial noise scaled, input scaled, prediction
    guided and rescaled, step.
    """
    noise, pose, network = problem(s)
    ours = sample(
        network,
        s,
        sampler,
        noise=noise,
        x0=0 * noise,
        noised=EVERYTHING,
        pose=pose,
        prompt=PROMPT,
        null_prompt=3,
    )
    scheduler = twin(name, s, sampler.steps, **changes)
    mask = s.canvas.make_mask(EVERYTHING)
    null = drop_conditions(EVERYTHING[:, 0], noise, mask, pose, PROMPT, 3)

    def predicted(x, t, pose, prompt):
        inputs = make_network_input(s.unet_inputs, s.canvas, jnp.asarray(x.numpy()), mask, pose)
        return torch.tensor(np.asarray(network(inputs, jnp.full(3, float(t)), prompt)))

    x = torch.tensor(np.asarray(noise)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        output = predicted(seen, t, pose, PROMPT)
        if sampler.guidance != 1.0:
            unconditional = predicted(seen, t, *null[1:])
            together = unconditional + sampler.guidance * (output - unconditional)
            output = rescale_noise_cfg(together, output, sampler.guidance_rescale)
        x = scheduler.step(output, t, x).prev_sample
    theirs = x.double().numpy()
    return np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs)


# measured: 6e-7 at most
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_whole_runs_match_diffusers(name, spacing, prediction):
    s = settings(**WHOLE, prediction=prediction, schedule=ScheduleSettings(spacing=spacing))
    assert relative_error(name, s, SamplerSettings(25, 1.0, name)) <= 2e-6


def test_ddim_over_the_papers_50_steps():
    s = settings(**WHOLE)
    assert relative_error("ddim", s, SamplerSettings(50, 1.0)) <= 2e-6


# measured: 6e-7 at most, but 3e-6 for euler: diffusers' own float32 steps from latents near 4096
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_matches_diffusers(name, spacing):
    schedule = ScheduleSettings(spacing=spacing, zero_terminal_snr=True)
    s = settings(**WHOLE, prediction="v", schedule=schedule)
    tolerance = 1e-5 if name == "euler" else 2e-6
    assert relative_error(name, s, SamplerSettings(25, 1.0, name)) <= tolerance


# IDM-VTON's: epsilon beside zero terminal SNR, sampled at timesteps that leave the last one out
@pytest.mark.parametrize("steps", [25, 50])
@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_with_epsilon_matches_diffusers(name, steps):
    s = settings(**WHOLE, prediction="epsilon", schedule=ScheduleSettings(zero_terminal_snr=True))
    assert relative_error(name, s, SamplerSettings(steps, 1.0, name)) <= 2e-6


def test_epsilon_is_never_asked_of_pure_noise():
    s = settings(schedule=ScheduleSettings(zero_terminal_snr=True))
    asked = {}
    for name in SAMPLERS:
        for steps in (*range(1, 334), 499, 500, 998):
            try:
                plan = make_sampler_plan(s, SamplerSettings(steps, 1.0, name))
            except OmfaError as error:
                assert "pure noise with zero_terminal_snr=True" in str(error)
                asked.setdefault(name, []).append(steps)
            else:
                assert plan.steps.t[0] < 999 and plan.steps.alpha[0] > MIN_ALPHA
    # DPM++ lays out one more timestep
    assert asked == {"ddim": [500], "euler": [500], "dpmpp_2m": [499, 998]}


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 14])
def test_few_dpmpp_2m_steps_match_diffusers_with_either_rule(steps, lower_order_final):
    error = relative_error(
        "dpmpp_2m",
        settings(**WHOLE),
        SamplerSettings(steps, 1.0, "dpmpp_2m"),
        lower_order_final=lower_order_final,
    )
    assert error <= 2e-6


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_and_its_rescaling_match_diffusers(name):
    schedule = ScheduleSettings(spacing="trailing", zero_terminal_snr=True)
    s = settings(**WHOLE, prediction="v", schedule=schedule)
    assert relative_error(name, s, SamplerSettings(25, 3.0, name, 0.7)) <= 1e-5


def test_rescaling_takes_the_deviation_over_the_noised_part_of_each_example():
    s = settings()
    together, conditional = jax.random.normal(jax.random.key(3), (2, 3, *s.canvas.shape))
    together = 3.0 * together + 1.0
    noised = jnp.array([[False, True, False], [True, True, False], [False, False, False]])
    mask = s.canvas.make_mask(noised)
    inside = np.broadcast_to(mask, together.shape)
    ours = np.asarray(rescale_cfg(together, conditional, mask, 0.7))
    for row in (0, 1):
        pair = (
            torch.tensor(np.asarray(v[row])[inside[row]])[None] for v in (together, conditional)
        )
        expected = rescale_noise_cfg(*pair, 0.7)[0]
        np.testing.assert_allclose(ours[row][inside[row]], expected, atol=2e-6)
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("steps", [7, 20, 50, 333])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_and_starting_noise_match_diffusers(name, spacing, steps):
    schedule = ScheduleSettings(spacing=spacing, steps_offset=2)
    theirs = twin(name, settings(schedule=schedule), steps)
    plan = SAMPLERS[name](schedule, steps)
    np.testing.assert_array_equal(plan.steps.t, theirs.timesteps.numpy())
    # diffusers' euler latents are x / alpha
    alpha = plan.steps.alpha[0] if name == "euler" else 1.0
    assert plan.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma) * alpha, rel=1e-6)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_count_gives_finite_weights_or_an_error(name, spacing, zero):
    schedule = ScheduleSettings(spacing=spacing, zero_terminal_snr=zero)
    for steps in (1, 2, 3, 61, 499, 500, 501, 998, 999, 1000):
        try:
            plan = SAMPLERS[name](schedule, steps)
        except OmfaError as error:
            assert steps >= 999 and "use fewer" in str(error)
            continue
        assert all(np.isfinite(column).all() for column in plan.steps)
        assert {len(column) for column in plan.steps} == {steps}


def test_step_counts_that_diffusers_answers_with_a_fault_are_errors():
    broken = twin("dpmpp_2m", settings(schedule=ScheduleSettings(spacing="linspace")), 1000)
    assert len(set(broken.timesteps.tolist())) < 1000
    for spacing, steps in (("linspace", 1000), ("leading", 1000)):
        with pytest.raises(OmfaError, match=f"{steps} steps with '{spacing}'"):
            SAMPLERS["dpmpp_2m"](ScheduleSettings(spacing=spacing), steps)
    with pytest.raises(OmfaError, match=r"do not fit into timesteps 0\.\.999"):
        SAMPLERS["ddim"](ScheduleSettings(), 1000)
    with pytest.raises(OmfaError, match="steps_offset: expected an integer from 0 to 999, got -1"):
        SAMPLERS["ddim"](ScheduleSettings(steps_offset=-1), 10)


def test_trailing_leaves_out_the_timestep_before_zero_that_diffusers_visits():
    theirs = twin("ddim", settings(schedule=ScheduleSettings(spacing="trailing")), 61)
    assert (len(theirs.timesteps), int(theirs.timesteps[-1])) == (62, -1)
    ours = make_sampling_timesteps(ScheduleSettings(spacing="trailing"), 61)
    np.testing.assert_array_equal(ours, theirs.timesteps[:-1])


def test_the_network_is_traced_once_however_many_steps():
    s = settings()
    noise, pose, network = problem(s)
    traced = []

    def counted(x, t, prompt):
        traced.append(1)
        return network(x, t, prompt)

    for name in SAMPLERS:
        traced.clear()
        sampler = SamplerSettings(9, 2.0, name)
        sample(
            counted,
            s,
            sampler,
            noise=noise,
            x0=0 * noise,
            noised=EVERYTHING,
            pose=pose,
            prompt=PROMPT,
            null_prompt=3,
        )
        assert len(traced) == 1


def test_wrong_settings_are_errors():
    with pytest.raises(OmfaError, match=r"sampler: expected .*did you mean 'dpmpp_2m'"):
        SamplerSettings(sampler="dpmpp2m")
    with pytest.raises(
        OmfaError, match=r"guidance_rescale: expected a number from 0 to 1, got 1\.5"
    ):
        SamplerSettings(guidance_rescale=1.5)
    for spacing in ("trailing", "linspace"):
        with pytest.raises(OmfaError, match=r"set config\.diffusion\.spacing to 'leading'"):
            settings(schedule=ScheduleSettings(spacing=spacing, zero_terminal_snr=True))
