"""The samplers as tables: the timesteps that each visits and the coefficients of its steps.

In variance-preserving latents every sampler here is one linear update,

    x <- x_coef * x + x0_coef * x0_hat + previous_x0_coef * (x0_hat of the previous step),

so a sampler is a table of these coefficients, computed in float64, and one scan runs them all.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from omfa_jax.diffusion.partial import MIN_ALPHA
from omfa_jax.diffusion.schedule import (
    ScheduleSettings,
    compute_alphas_cumprod,
    make_sampling_timesteps,
)

# replaces alpha_bar = 0 in divisions: sigma / alpha is then 4096
MIN_ALPHA_BAR = MIN_ALPHA**2


class SamplerSteps(NamedTuple):
    """One row per step, the noisiest first; `alpha` and `sigma` are those at `t`."""

    t: Num[np.ndarray, "steps"]
    alpha: Float[np.ndarray, "steps"]
    sigma: Float[np.ndarray, "steps"]
    x_coef: Float[np.ndarray, "steps"]
    x0_coef: Float[np.ndarray, "steps"]
    previous_x0_coef: Float[np.ndarray, "steps"]


class SamplerPlan(NamedTuple):
    """The table of a complete run; it starts from normal noise times `init_noise_sigma`."""

    init_noise_sigma: float
    steps: SamplerSteps


def ddim(schedule: ScheduleSettings, steps: int) -> SamplerPlan:
    """Return DDIM (arXiv 2010.02502, equation 12, eta = 0) as in diffusers' DDIMScheduler.

    Each step goes T // steps timesteps down. The last one ends at alpha_bar_0 and not at 1:
    diffusers' `set_alpha_to_one=False`, which SDXL's scheduler config has.
    """
    alpha_bar = compute_alphas_cumprod(schedule)
    times = make_sampling_timesteps(schedule, steps)
    # clipped at 0: the last step ends at alpha_bar_0
    after = np.maximum(times - schedule.train_steps // steps, 0)
    alpha, sigma = np.sqrt(alpha_bar[times]), np.sqrt(1 - alpha_bar[times])
    keep, now = compute_first_order_coefs(
        alpha, sigma, np.sqrt(alpha_bar[after]), np.sqrt(1 - alpha_bar[after])
    )
    return SamplerPlan(1.0, SamplerSteps(times, alpha, sigma, keep, now, np.zeros(steps)))


def euler(schedule: ScheduleSettings, steps: int) -> SamplerPlan:
    """Return Euler's method on dx/dr, r = sigma / alpha, as in diffusers' EulerDiscreteScheduler.

    Diffusers' latents are x / alpha; here they stay variance-preserving, where the step is DDIM's
    formula. `linspace` visits fractional timesteps. As in diffusers, `trailing` and `linspace`
    start from latents of standard deviation sigma_T, just below 1, and the last step ends at r = 0.
    """
    times = make_sampling_timesteps(schedule, steps, fractional=True)
    alpha, sigma = interpolate_alpha_sigma(schedule, times)
    keep, now = compute_first_order_coefs(
        alpha, sigma, np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    )
    start = 1.0 if schedule.spacing == "leading" else float(sigma[0])
    return SamplerPlan(start, SamplerSteps(times, alpha, sigma, keep, now, np.zeros(steps)))


def dpmpp_2m(schedule: ScheduleSettings, steps: int) -> SamplerPlan:
    """Return DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2).

    It equals diffusers' DPMSolverMultistepScheduler with its defaults (midpoint, order 2). The
    first step is of first order because it has no previous estimate, and the last because it ends
    at sigma = 0; diffusers' `lower_order_final` therefore changes nothing.
    """
    times = make_sampling_timesteps(schedule, steps, spare=1)
    alpha, sigma = interpolate_alpha_sigma(schedule, times)
    keep, now = compute_first_order_coefs(
        alpha, sigma, np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    )
    before = np.zeros(steps)
    # steps in log-SNR / 2, the time of the method; the second-order term extrapolates x0_hat
    # linearly to the midpoint of a step
    widths = np.diff(np.log(alpha / sigma))
    slope = now[1:-1] * 0.5 * widths[1:] / widths[:-1]
    now[1:-1] += slope
    before[1:-1] -= slope
    return SamplerPlan(1.0, SamplerSteps(times, alpha, sigma, keep, now, before))


SAMPLERS: dict[str, Callable[[ScheduleSettings, int], SamplerPlan]] = {
    "ddim": ddim,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
}


def interpolate_alpha_sigma(
    schedule: ScheduleSettings, times: Num[np.ndarray, "steps"]
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Return (alpha, sigma) at timesteps that may be fractional, by interpolating sigma / alpha.

    With zero terminal SNR, where the ratio is infinite at the end, alpha_bar is clipped from below
    at `MIN_ALPHA_BAR`.
    """
    alpha_bar = np.maximum(compute_alphas_cumprod(schedule), MIN_ALPHA_BAR)
    ratio = np.interp(times, np.arange(len(alpha_bar)), np.sqrt(1 / alpha_bar - 1))
    alpha = 1 / np.sqrt(1 + ratio**2)
    return alpha, ratio * alpha


def compute_first_order_coefs(
    alpha: Float[np.ndarray, "steps"],
    sigma: Float[np.ndarray, "steps"],
    alpha_next: Float[np.ndarray, "steps"],
    sigma_next: Float[np.ndarray, "steps"],
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Return (x_coef, x0_coef) of the step to alpha_next x0_hat + sigma_next eps_hat.

    With eps_hat = (x - alpha x0_hat) / sigma it is linear in x and x0_hat alone.
    """
    keep = sigma_next / sigma
    return keep, alpha_next - alpha * keep
