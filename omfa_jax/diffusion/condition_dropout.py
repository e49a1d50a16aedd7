"""Condition dropout in training, which classifier-free guidance needs in sampling."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from omfa_jax.diffusion.partial import Latent, Mask


def drop_conditions(
    drop: Bool[Array, "b"],
    xt: Latent,
    mask: Mask,
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> tuple[Latent, Latent, Int[Array, "b"]]:
    """Return (x_t, pose, prompt) without conditions where `drop` is True (method, section 7).

    The clean components and the pose become zero latents and the prompt row becomes `null_prompt`,
    the empty prompt's. The noised part is untouched. All conditions are dropped together, because
    guidance at sampling time compares with a branch that has none of them.
    """
    # x_t alone need change: the `clean` input is derived from it, and the mask stays as it is, as
    # it says what to generate and not what is given
    dropped: Bool[Array, "b 1 1 1"] = drop[:, None, None, None]
    return (
        jnp.where(dropped & ~mask, 0.0, xt),
        jnp.where(dropped, 0.0, pose),
        jnp.where(drop, null_prompt, prompt),
    )
