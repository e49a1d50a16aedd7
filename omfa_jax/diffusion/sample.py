"""The sampler: a stepper's table and classifier-free guidance over the canvas, one scan."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from omfa_jax.core.bounds import Choice, Number, Whole, require
from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.guidance import Network, branches, guided
from omfa_jax.diffusion.partial import Latent, denoised, keep_clean
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.diffusion.steppers import STEPPERS, Plan

# (network input, prompt rows) of every branch -> the network for them
Prepare = Callable[[Float[Array, "b h w cin"], Int[Array, "b"]], Network]


# what the sampler's settings may be
SAMPLER = {
    "steps": Whole(1, 10**6),
    "guidance": Number(0, 1000),
    "sampler": Choice(STEPPERS),
    "guidance_rescale": Number(0, 1),
}


@dataclass(frozen=True)
class SamplerSettings:
    """`steps` steps of `sampler`, a row of STEPPERS.

    `guidance` is the scale s (1 = no guidance, half the cost); `guidance_rescale`, in 0..1, how
    far the guided prediction's deviation is brought back to the conditional's (0 = off; 0.7 is
    the choice of arXiv 2305.08891 for zero-terminal-SNR models).
    """

    steps: int = 50
    guidance: float = 2.0
    sampler: str = "ddim"
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        require("sampler (config.sample, or the flag of that name): ", SAMPLER, self)


def plan_of(settings: DiffusionSettings, sampler: SamplerSettings) -> Plan:
    """Return the sampler's table; OmfaError if the model cannot be asked at one of its timesteps.

    With epsilon and zero terminal SNR (`epsilon_zero_snr`) that is the last one: "leading"
    timesteps leave it out, as IDM-VTON's sampler does, but for a few step counts (500, 999).
    """
    plan = STEPPERS[sampler.sampler](settings.schedule, sampler.steps)
    last = settings.schedule.train_steps - 1
    if settings.epsilon_zero_snr and plan.steps.t[0] >= last:
        raise OmfaError(
            f"{sampler.steps} {settings.schedule.spacing!r} timesteps begin at {last}, pure noise"
            " with zero_terminal_snr=True, from which epsilon says nothing about the picture:"
            " change --steps or config.sample.steps"
        )
    return plan


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
    prepare: Prepare | None = None,
) -> Latent | tuple[Latent, Float[Array, "steps b h w c"]]:
    """Denoise the noised components of a canvas; the clean ones leave bit-equal (equation 5).

    `x0` holds the clean components (its noised part is ignored), `noise` is standard normal of
    the same shape. With `trajectory=True` the clean estimate of every step (equation 4) is
    returned too. `prepare(network input, prompt rows)` is asked once for the network of all steps,
    with the input of the first: what depends on the clean part alone need not be computed again.
    """
    mask = settings.canvas.mask(noised)
    batch = noise.shape[0]

    def step(state: tuple[Latent, Latent], row: dict[str, Array]):
        x, x0_before = state
        t, alpha, sigma = (jnp.broadcast_to(row[n], (batch,)) for n in ("t", "alpha", "sigma"))
        output = guided(
            network,
            settings,
            sampler.guidance,
            sampler.guidance_rescale,
            x,
            mask,
            pose,
            t,
            prompt,
            null_prompt,
        )
        x0_hat, _ = denoised(settings.prediction, output, x, alpha, sigma)
        moved = row["keep"] * x + row["now"] * x0_hat + row["before"] * x0_before
        x = keep_clean(mask, moved, x0)
        return (x, x0_hat), keep_clean(mask, x0_hat, x0) if trajectory else None

    plan = plan_of(settings, sampler)
    start = keep_clean(mask, plan.start * noise, x0)
    if prepare is not None:
        network = prepare(
            *branches(settings, sampler.guidance, start, mask, pose, prompt, null_prompt)
        )
    rows = {name: jnp.asarray(column) for name, column in plan.steps._asdict().items()}
    (final, _), states = jax.lax.scan(step, (start, jnp.zeros_like(start)), rows)
    return final if states is None else (final, states)
