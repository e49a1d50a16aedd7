"""SDXL's noise schedule and the timesteps that a sampler visits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import Boolean, Choice, FloatRange, IntRange, check_fields

SPACINGS = ("leading", "trailing", "linspace")
DISTRIBUTIONS = ("uniform", "logit_normal")
# valid values of the fields of the settings below; beyond 100 a float32 sigmoid is 0 or 1
SCHEDULE_RULES = {
    "beta_start": FloatRange(0, 1, exclusive_minimum=True, exclusive_maximum=True),
    "beta_end": FloatRange(0, 1, exclusive_minimum=True, exclusive_maximum=True),
    "train_steps": IntRange(2, 10**6),
    "spacing": Choice(SPACINGS),
    "steps_offset": IntRange(0, 999),
    "zero_terminal_snr": Boolean(),
}
TIMESTEP_RULES = {
    "name": Choice(DISTRIBUTIONS),
    "logit_mean": FloatRange(-100, 100),
    "logit_std": FloatRange(0, 100, exclusive_minimum=True),
}


@dataclass(frozen=True)
class ScheduleSettings:
    """The `scaled_linear` noise schedule; the defaults are SDXL's.

    `spacing` is the spacing of the sampler's timesteps; `steps_offset` shifts the `leading` ones
    (SDXL: 1). `zero_terminal_snr` rescales the schedule so that the last timestep is pure noise
    (arXiv 2305.08891, algorithm 1); `trailing` and `linspace` visit that timestep, `leading` almost
    never does.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    spacing: str = "leading"
    steps_offset: int = 1
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        check_fields("schedule: ", SCHEDULE_RULES, self)


def compute_alphas_cumprod(settings: ScheduleSettings) -> Float[np.ndarray, "t"]:
    """Return alpha_bar_t = alpha_t^2 for t = 0..T-1, in float64 (sigma_t^2 = 1 - alpha_bar_t)."""
    # "scaled_linear": linear in sqrt(beta); float64, as a product of 1000 factors loses digits
    root = np.linspace(settings.beta_start**0.5, settings.beta_end**0.5, settings.train_steps)
    alpha_bar = np.cumprod(1.0 - root**2)
    if settings.zero_terminal_snr:
        alpha = np.sqrt(alpha_bar)
        # shifted so that the last is 0, scaled so that the first stays
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        alpha_bar = alpha**2
    return alpha_bar


def get_alpha_sigma(
    settings: ScheduleSettings, t: Int[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Return (alpha_t, sigma_t) for integer timesteps in [0, T)."""
    alpha_bar = compute_alphas_cumprod(settings)
    alpha = jnp.asarray(np.sqrt(alpha_bar), jnp.float32)
    sigma = jnp.asarray(np.sqrt(1.0 - alpha_bar), jnp.float32)
    return alpha[t], sigma[t]


@dataclass(frozen=True)
class TimestepDistribution:
    """The distribution of timesteps in training: `uniform`, as in SDXL, or `logit_normal`.

    logit_normal is t / T = sigmoid(`logit_mean` + `logit_std` z) with z standard normal (arXiv
    2403.03206, section 3.1). A mean above 0 favours noisy timesteps, which decide the layout.
    """

    name: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        check_fields("config.timesteps.", TIMESTEP_RULES, self)

    def sample(self, key: jax.Array, train_steps: int) -> Int[Array, ""]:
        """Return a random timestep in [0, train_steps)."""
        if self.name == "uniform":
            return jax.random.randint(key, (), 0, train_steps)
        logits = self.logit_mean + self.logit_std * jax.random.normal(key)
        # floor, as T equal bins of [0, 1)
        times = jnp.floor(jax.nn.sigmoid(logits) * train_steps).astype(jnp.int32)
        # a float32 sigmoid reaches 1.0 exactly
        return jnp.minimum(times, train_steps - 1)


def make_sampling_timesteps(
    settings: ScheduleSettings, steps: int, *, spare: int = 0, fractional: bool = False
) -> Num[np.ndarray, "steps"]:
    """Return the timesteps that a sampler visits, largest first (arXiv 2305.08891, table 2).

    `leading` and `linspace` are computed with `spare` more points, which are dropped at the clean
    end. With `fractional`, `linspace` is not rounded and float32; otherwise timesteps are int32.
    OmfaError for timesteps outside 0..T-1 or visited twice.
    """
    total = settings.train_steps
    if not 1 <= steps <= total:
        raise OmfaError(
            f"sampling steps must be in 1..{total}, got {steps};"
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
    # for some step counts (61) diffusers' `trailing` visits one timestep more, -1
    times = times[:steps].astype(dtype)
    if times[0] >= total or times[-1] < 0 or (np.diff(times) >= 0).any():
        raise OmfaError(
            f"{steps} steps with {settings.spacing!r} spacing and steps_offset"
            f" {settings.steps_offset} do not fit into timesteps 0..{total - 1};"
            " use fewer (--steps or config.sample.steps)"
        )
    return times
