"""The steppers as tables: the timesteps that each visits and the weights of its steps.

In variance-preserving latents every stepper here is one linear rule,

    x <- keep * x + now * x0_hat + before * (x0_hat of the step before),

so that a stepper is a table of these weights, worked out in float64, and one scan serves them all.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from omfa_jax.diffusion.partial import LEAST_ALPHA
from omfa_jax.diffusion.schedule import ScheduleSettings, cumulative_alphas, sampling_timesteps

# in place of alpha_bar = 0 where it is divided by: sigma / alpha is then 4096
LEAST_ALPHA_BAR = LEAST_ALPHA**2


class Steps(NamedTuple):
    """One row a step, the noisiest first; `alpha` and `sigma` are those at `t`."""

    t: Num[np.ndarray, "steps"]
    alpha: Float[np.ndarray, "steps"]
    sigma: Float[np.ndarray, "steps"]
    keep: Float[np.ndarray, "steps"]
    now: Float[np.ndarray, "steps"]
    before: Float[np.ndarray, "steps"]


class Plan(NamedTuple):
    """A whole run: it starts at `start` times standard normal noise."""

    start: float
    steps: Steps


def ddim(schedule: ScheduleSettings, steps: int) -> Plan:
    """DDIM (arXiv 2010.02502, equation 12, eta = 0), as diffusers' DDIMScheduler.

    Each step goes T // steps timesteps down, the last one to alpha_bar_0 and not to 1.
    """
    alpha_bar = cumulative_alphas(schedule)
    times = sampling_timesteps(schedule, steps)
    after = np.maximum(times - schedule.train_steps // steps, 0)
    alpha, sigma = np.sqrt(alpha_bar[times]), np.sqrt(1 - alpha_bar[times])
    keep, now = first_order(alpha, sigma, np.sqrt(alpha_bar[after]), np.sqrt(1 - alpha_bar[after]))
    return Plan(1.0, Steps(times, alpha, sigma, keep, now, np.zeros(steps)))


def euler(schedule: ScheduleSettings, steps: int) -> Plan:
    """Euler's method on dx/dr, r = sigma / alpha, as diffusers' EulerDiscreteScheduler.

    There the latents are x / alpha; here they stay variance-preserving, in which the step is
    DDIM's formula. `linspace` visits fractional timesteps. As there, `trailing` and `linspace`
    start from latents of deviation sigma_T, just below 1, and the last step goes to r = 0.
    """
    times = sampling_timesteps(schedule, steps, fractional=True)
    alpha, sigma = alpha_sigma_at(schedule, times)
    keep, now = first_order(alpha, sigma, np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0))
    start = 1.0 if schedule.spacing == "leading" else float(sigma[0])
    return Plan(start, Steps(times, alpha, sigma, keep, now, np.zeros(steps)))


def dpmpp_2m(schedule: ScheduleSettings, steps: int) -> Plan:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), as DPMSolverMultistepScheduler.

    That is diffusers' class at its defaults (midpoint, order 2). The first step is of first order
    for want of a past, and the last because it goes to sigma = 0; so diffusers'
    `lower_order_final` changes nothing.
    """
    times = sampling_timesteps(schedule, steps, spare=1)
    alpha, sigma = alpha_sigma_at(schedule, times)
    keep, now = first_order(alpha, sigma, np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0))
    before = np.zeros(steps)
    widths = np.diff(np.log(alpha / sigma))
    slope = now[1:-1] * 0.5 * widths[1:] / widths[:-1]
    now[1:-1] += slope
    before[1:-1] -= slope
    return Plan(1.0, Steps(times, alpha, sigma, keep, now, before))


STEPPERS: dict[str, Callable[[ScheduleSettings, int], Plan]] = {
    "ddim": ddim,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
}


def alpha_sigma_at(
    schedule: ScheduleSettings, times: Num[np.ndarray, "steps"]
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Return (alpha, sigma) at timesteps that may be fractional: sigma / alpha is interpolated.

    A zero-terminal-SNR schedule, where that is infinite at the end, is cut at `LEAST_ALPHA_BAR`.
    """
    alpha_bar = np.maximum(cumulative_alphas(schedule), LEAST_ALPHA_BAR)
    ratio = np.interp(times, np.arange(len(alpha_bar)), np.sqrt(1 / alpha_bar - 1))
    alpha = 1 / np.sqrt(1 + ratio**2)
    return alpha, ratio * alpha


def first_order(
    alpha: Float[np.ndarray, "steps"],
    sigma: Float[np.ndarray, "steps"],
    alpha_next: Float[np.ndarray, "steps"],
    sigma_next: Float[np.ndarray, "steps"],
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Return (keep, now) of alpha_next x0_hat + sigma_next eps_hat, eps_hat taken out of x."""
    keep = sigma_next / sigma
    return keep, alpha_next - alpha * keep
