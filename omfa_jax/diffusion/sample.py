"""The sampler: DDIM with classifier-free guidance over the canvas, one compiled scan."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.dropout import drop_conditions
from omfa_jax.diffusion.partial import Latent, denoised, keep_clean, network_input, per_example
from omfa_jax.diffusion.schedule import cumulative_alphas, sampling_timesteps
from omfa_jax.diffusion.settings import DiffusionSettings

# (network input, timesteps, rows of the prompt table) -> prediction on the canvas
Network = Callable[
    [Float[Array, "b h w cin"], Int[Array, "b"], Int[Array, "b"]], Float[Array, "b h w c"]
]


@dataclass(frozen=True)
class SamplerSettings:
    """`steps` DDIM steps (eta 0); `guidance` is the scale s (1 = no guidance, half the cost)."""

    steps: int = 50
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OmfaError(f"sampling steps must be at least 1, got {self.steps}")
        if not self.guidance >= 0:
            raise OmfaError(f"guidance must be 0 or more, got {self.guidance}")


def guided(
    network: Network,
    settings: DiffusionSettings,
    scale: float,
    xt: Latent,
    mask: Bool[Array, "b h w _"],
    pose: Latent,
    t: Int[Array, "b"],
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> Latent:
    """Equation 6: eps_u + s (eps_c - eps_u); both branches run in one batch."""
    canvas, inputs = settings.canvas, settings.unet_inputs
    if scale == 1.0:
        return network(network_input(inputs, canvas, xt, mask, pose), t, prompt)
    everyone = jnp.ones(xt.shape[0], bool)
    null = drop_conditions(everyone, xt, mask, pose, prompt, null_prompt)
    xt2, pose2, prompt2 = (
        jnp.concatenate(pair) for pair in zip((xt, pose, prompt), null, strict=True)
    )
    mask2, t2 = jnp.concatenate([mask, mask]), jnp.concatenate([t, t])
    output = network(network_input(inputs, canvas, xt2, mask2, pose2), t2, prompt2)
    conditional, unconditional = jnp.split(output, 2)
    return unconditional + scale * (conditional - unconditional)


def ddim_coefficients(
    settings: DiffusionSettings, steps: int
) -> dict[str, Float[np.ndarray, "steps"] | Int[np.ndarray, "steps"]]:
    """Return per-step t, alpha, sigma and those of the step it moves to (the last: alpha_bar_0)."""
    alpha_bar = cumulative_alphas(settings.schedule)
    times = sampling_timesteps(settings.schedule, steps)
    previous = times - settings.schedule.train_steps // steps
    after = np.where(previous >= 0, alpha_bar[np.maximum(previous, 0)], alpha_bar[0])
    here = alpha_bar[times]
    as32 = {
        "alpha": np.sqrt(here),
        "sigma": np.sqrt(1 - here),
        "alpha_next": np.sqrt(after),
        "sigma_next": np.sqrt(1 - after),
    }
    return {"t": times, **{name: value.astype(np.float32) for name, value in as32.items()}}


def sample(
    network: Network,
    settings: DiffusionSettings,
    sampler: SamplerSettings,
    noise: Latent,
    x0: Latent,
    noised: Bool[Array, "b 3"],
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
    *,
    trajectory: bool = False,
) -> Latent | tuple[Latent, Float[Array, "steps b h w c"]]:
    """Denoise the noised components of a canvas; the clean ones leave bit-equal.

    `x0` holds the clean components (its noised part is ignored), `noise` is standard normal of
    the same shape. Equation 5, DDIM (arXiv 2010.02502, equation 12, eta = 0). With
    `trajectory=True` the clean estimate of every step (equation 4) is returned too.
    """
    mask = settings.canvas.mask(noised)
    batch = noise.shape[0]

    def step(x: Latent, c: dict[str, Array]):
        t, alpha, sigma, alpha_next, sigma_next = (
            jnp.broadcast_to(c[name], (batch,))
            for name in ("t", "alpha", "sigma", "alpha_next", "sigma_next")
        )
        output = guided(network, settings, sampler.guidance, x, mask, pose, t, prompt, null_prompt)
        x0_hat, eps_hat = denoised(settings.prediction, output, x, alpha, sigma)
        moved = per_example(alpha_next) * x0_hat + per_example(sigma_next) * eps_hat
        x = keep_clean(mask, moved, x0)
        return x, keep_clean(mask, x0_hat, x0) if trajectory else None

    coefficients = {
        name: jnp.asarray(value)
        for name, value in ddim_coefficients(settings, sampler.steps).items()
    }
    final, states = jax.lax.scan(step, keep_clean(mask, noise, x0), coefficients)
    return (final, states) if trajectory else final
