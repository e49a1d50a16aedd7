"""SDXL's noise schedule and the timesteps that a sampler visits."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from omfa_jax.core.errors import OmfaError, unknown

SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class ScheduleSettings:
    """The `scaled_linear` schedule; the defaults are SDXL's.

    `spacing` is of the sampler's timesteps; `steps_offset` shifts the `leading` ones (SDXL: 1).
    `zero_terminal_snr` rescales the schedule so that the last timestep is pure noise (arXiv
    2305.08891, algorithm 1); only `trailing` and `linspace` visit that timestep.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    spacing: str = "leading"
    steps_offset: int = 1
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.spacing not in SPACINGS:
            raise unknown("timestep spacing", self.spacing, SPACINGS)


def cumulative_alphas(settings: ScheduleSettings) -> Float[np.ndarray, "t"]:
    """Return alpha_bar_t = alpha_t^2 for t = 0..T-1, in float64 (sigma_t^2 = 1 - alpha_bar_t)."""
    root = np.linspace(settings.beta_start**0.5, settings.beta_end**0.5, settings.train_steps)
    alpha_bar = np.cumprod(1.0 - root**2)
    if settings.zero_terminal_snr:
        alpha = np.sqrt(alpha_bar)
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        alpha_bar = alpha**2
    return alpha_bar


def alpha_sigma(
    settings: ScheduleSettings, t: Int[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Return (alpha_t, sigma_t) for integer timesteps in [0, T)."""
    alpha_bar = cumulative_alphas(settings)
    alpha = jnp.asarray(np.sqrt(alpha_bar), jnp.float32)
    sigma = jnp.asarray(np.sqrt(1.0 - alpha_bar), jnp.float32)
    return alpha[t], sigma[t]


def sampling_timesteps(
    settings: ScheduleSettings, steps: int, *, spare: int = 0, fractional: bool = False
) -> Num[np.ndarray, "steps"]:
    """Return the timesteps a sampler visits, largest first (arXiv 2305.08891, table 2).

    `leading` and `linspace` lay out `spare` more and leave them out at the clean end.
    `fractional` leaves those of `linspace` unrounded, in float32; else they are int32. Diffusers
    visits one more, timestep -1, for some step counts (61) of `trailing`: here that is left out.
    Timesteps outside 0..T-1, or one visited twice, are an error.
    """
    total = settings.train_steps
    if not 1 <= steps <= total:
        raise OmfaError(
            f"sampling steps must lie in 1..{total}, got {steps};"
            " change --steps or config.sample.steps"
        )
    points, dtype = steps + spare, np.int32
    if settings.spacing == "leading":
        times = (np.arange(points) * (total // points))[::-1] + settings.steps_offset
    elif settings.spacing == "trailing":
        times = np.round(np.arange(total, 0, -total / steps)) - 1
    elif fractional:
        times, dtype = np.linspace(0, total - 1, points)[::-1], np.float32
    else:
        times = np.round(np.linspace(0, total - 1, points))[::-1]
    times = times[:steps].astype(dtype)
    if times[0] >= total or times[-1] < 0 or (np.diff(times) >= 0).any():
        raise OmfaError(
            f"{steps} steps with {settings.spacing!r} spacing and steps_offset"
            f" {settings.steps_offset} do not fit into timesteps 0..{total - 1};"
            " take fewer (--steps or config.sample.steps)"
        )
    return times
