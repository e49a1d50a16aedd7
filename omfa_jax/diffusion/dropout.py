"""Condition dropout in training: some examples see no condition, so that guidance can be used."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from omfa_jax.diffusion.partial import Latent, Mask


def drop_conditions(
    drop: Bool[Array, "b"],
    xt: Latent,
    mask: Mask,
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> tuple[Latent, Latent, Int[Array, "b"]]:
    """Equation 6: where `drop`, clean components and pose become zero and the prompt the empty one.

    Returns (x_t, pose, prompt). The noised part is untouched.
    """
    gone: Float[Array, "b 1 1 1"] = drop[:, None, None, None]
    return (
        jnp.where(gone & ~mask, 0.0, xt),
        jnp.where(gone, 0.0, pose),
        jnp.where(drop, null_prompt, prompt),
    )
