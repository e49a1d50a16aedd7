"""The sampling loop: one scan over a sampler's table, with classifier-free guidance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import Choice, FloatRange, IntRange, check_fields
from omfa_jax.diffusion.guidance import NetworkFn, apply_cfg, make_cfg_inputs
from omfa_jax.diffusion.partial import Latent, keep_clean, predict_x0_and_eps
from omfa_jax.diffusion.samplers import SAMPLERS, SamplerPlan, SamplerSteps
from omfa_jax.diffusion.settings import DiffusionSettings

# (network input, prompt rows) of all branches -> the network to call at every step
PrepareNetwork = Callable[[Float[Array, "b h w cin"], Int[Array, "b"]], NetworkFn]
# called with the number of steps that are done, an integer array ()
StepCallback = Callable[[Any], None]
# the canvas, and the estimate x0_hat of the step before
SamplerState = tuple[Latent, Latent]

# valid values of the fields of SamplerSettings
SAMPLER_RULES = {
    "steps": IntRange(1, 10**6),
    "guidance": FloatRange(0, 1000),
    "sampler": Choice(SAMPLERS),
    "guidance_rescale": FloatRange(0, 1),
}


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of sampling: `steps` steps of `sampler`: ddim, euler or dpmpp_2m.

    `guidance` is the guidance scale s, 0 to 1000; 1 turns guidance off and halves the cost.
    `guidance_rescale`, in [0, 1], says how far the standard deviation of the guided prediction is
    moved back to that of the conditional one: 0 is off, 0.7 is the value of arXiv 2305.08891 for
    zero-terminal-SNR models.
    """

    steps: int = 50
    guidance: float = 2.0
    sampler: str = "ddim"
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        check_fields("sampler (config.sample, or the flag of that name): ", SAMPLER_RULES, self)


def make_sampler_plan(settings: DiffusionSettings, sampler: SamplerSettings) -> SamplerPlan:
    """Return the sampler's table; OmfaError if it visits a timestep that the model cannot denoise.

    With epsilon prediction and zero terminal SNR (`epsilon_zero_snr`) that is the last timestep.
    `leading` spacing skips it, as IDM-VTON's sampler does, except for a few step counts (500, 999).
    """
    plan = SAMPLERS[sampler.sampler](settings.schedule, sampler.steps)
    last = settings.schedule.train_steps - 1
    if settings.epsilon_zero_snr and plan.steps.t[0] >= last:
        raise OmfaError(
            f"{sampler.steps} {settings.schedule.spacing!r} timesteps start at {last}, which is"
            " pure noise with zero_terminal_snr=True; an epsilon prediction carries no information"
            " about the image there: change --steps or config.sample.steps"
        )
    return plan


def sample(
    network: NetworkFn,
    settings: DiffusionSettings,
    sampler: SamplerSettings,
    *,
    noise: Latent,
    x0: Latent,
    noised: Bool[Array, "b 3"],
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
    trajectory: bool = False,
    prepare: PrepareNetwork | None = None,
    on_step: StepCallback | None = None,
) -> Latent | tuple[Latent, Float[Array, "steps b h w c"]]:
    """Return the canvas with its noised components generated; clean ones are returned bit-equal.

    `x0` holds the clean components (its noised part is ignored); `noise` is standard normal noise
    of the same shape; `null_prompt` is the row of the empty prompt. With `trajectory` the estimate
    x0_hat of every step is returned too. `prepare` is called once, with the input of the first
    step, and returns the network of all steps: what depends on the clean part alone is then not
    computed again. `on_step` is called on the host as each step begins, by each device. Method:
    docs/method.md, sections 6 and 7.
    """
    mask = settings.canvas.make_mask(noised)
    plan = make_sampler_plan(settings, sampler)
    start = keep_clean(mask, plan.init_noise_sigma * noise, x0)
    if prepare is not None:
        network = prepare(
            *make_cfg_inputs(settings, sampler.guidance, start, mask, pose, prompt, null_prompt)
        )
    move = _make_step(
        network,
        settings,
        (sampler.guidance, sampler.guidance_rescale),
        x0=x0,
        mask=mask,
        pose=pose,
        prompt=prompt,
        null_prompt=null_prompt,
    )

    def step(state: SamplerState, row: SamplerSteps):
        state = move(state, row)
        return state, keep_clean(mask, state[1], x0) if trajectory else None

    rows = jax.tree.map(jnp.asarray, plan.steps)
    # the first step has no estimate before it; its weight in every table is 0
    first = (start, jnp.zeros_like(start))
    if on_step is None:
        (final, _), states = jax.lax.scan(step, first, rows)
    else:
        # given the number alone: a callback that waits for the images could change how they are
        # fused, and with that their last bits
        def report(state: SamplerState, numbered: tuple[Array, SamplerSteps]):
            jax.debug.callback(on_step, numbered[0])
            return step(state, numbered[1])

        (final, _), states = jax.lax.scan(report, first, (jnp.arange(len(rows.t)), rows))
    return final if states is None else (final, states)


def advance(
    network: NetworkFn,
    settings: DiffusionSettings,
    guidance: float | Float[Array, ""],
    rescale: float,
    rows: SamplerSteps,
    first: Int[Array, ""],
    last: Int[Array, ""],
    state: SamplerState,
    *,
    x0: Latent,
    noised: Bool[Array, "b 3"],
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
    prepare: PrepareNetwork | None = None,
) -> SamplerState:
    """Return (canvas, x0_hat) after the steps `first` to `last` (not included) of a table.

    Part of `sample`, for callers that look at x0_hat in between: all arguments but the network may
    differ from call to call without compiling anew, `guidance` too where it is an array; as an
    array it is not 1. The first state is (noise in the noised components and x0 elsewhere, zeros).
    """
    mask = settings.canvas.make_mask(noised)
    if prepare is not None:
        network = prepare(
            *make_cfg_inputs(settings, guidance, state[0], mask, pose, prompt, null_prompt)
        )
    step = _make_step(
        network,
        settings,
        (guidance, rescale),
        x0=x0,
        mask=mask,
        pose=pose,
        prompt=prompt,
        null_prompt=null_prompt,
    )
    return jax.lax.fori_loop(
        first, last, lambda i, state: step(state, jax.tree.map(lambda v: v[i], rows)), state
    )


def _make_step(
    network: NetworkFn,
    settings: DiffusionSettings,
    guidance: tuple[float | Float[Array, ""], float],
    *,
    x0: Latent,
    mask: Bool[Array, "b h w m"],
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> Callable[[SamplerState, SamplerSteps], SamplerState]:
    """Return the step of the loop; `guidance` is its scale and its rescale factor."""
    batch = x0.shape[0]

    def step(state: SamplerState, row: SamplerSteps) -> SamplerState:
        x, x0_before = state
        t, alpha, sigma = (jnp.broadcast_to(v, (batch,)) for v in (row.t, row.alpha, row.sigma))
        output = apply_cfg(
            network,
            settings,
            *guidance,
            xt=x,
            mask=mask,
            pose=pose,
            t=t,
            prompt=prompt,
            null_prompt=null_prompt,
        )
        x0_hat, _ = predict_x0_and_eps(settings.prediction, output, x, alpha, sigma)
        moved: Any = row.x_coef * x + row.x0_coef * x0_hat + row.previous_x0_coef * x0_before
        # written back at every step: off M the update is meaningless, and the network must see the
        # conditions without drift
        return keep_clean(mask, moved, x0), x0_hat

    return step
