"""Classifier-free guidance over the canvas, and its rescaling."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from omfa_jax.diffusion.dropout import drop_conditions
from omfa_jax.diffusion.partial import Latent, Mask, network_input
from omfa_jax.diffusion.settings import DiffusionSettings

# (network input, timesteps, rows of the prompt table) -> prediction on the canvas
Network = Callable[
    [Float[Array, "b h w cin"], Num[Array, "b"], Int[Array, "b"]], Float[Array, "b h w c"]
]


def guided(
    network: Network,
    settings: DiffusionSettings,
    scale: float,
    rescale: float,
    xt: Latent,
    mask: Mask,
    pose: Latent,
    t: Num[Array, "b"],
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> Latent:
    """Equation 6: eps_u + s (eps_c - eps_u), rescaled; both branches run in one batch.

    With `scale` 1 the null branch is not run and there is nothing to rescale.
    """
    inputs, rows = branches(settings, scale, xt, mask, pose, prompt, null_prompt)
    if scale == 1.0:
        return network(inputs, t, rows)
    output = network(inputs, jnp.concatenate([t, t]), rows)
    conditional, unconditional = jnp.split(output, 2)
    together = unconditional + scale * (conditional - unconditional)
    return rescaled(together, conditional, mask, rescale) if rescale else together


def branches(
    settings: DiffusionSettings,
    scale: float,
    xt: Latent,
    mask: Mask,
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> tuple[Float[Array, "b2 h w cin"], Int[Array, "b2"]]:
    """Return (network input, prompt rows): the conditional branch's, then the null branch's.

    With `scale` 1 there is no null branch.
    """
    canvas, inputs = settings.canvas, settings.unet_inputs
    if scale == 1.0:
        return network_input(inputs, canvas, xt, mask, pose), prompt
    everyone = jnp.ones(xt.shape[0], bool)
    null = drop_conditions(everyone, xt, mask, pose, prompt, null_prompt)
    xt, pose, prompt = (
        jnp.concatenate(pair) for pair in zip((xt, pose, prompt), null, strict=True)
    )
    mask = jnp.concatenate([mask, mask])
    return network_input(inputs, canvas, xt, mask, pose), prompt


def rescaled(together: Latent, conditional: Latent, mask: Mask, amount: float) -> Latent:
    """Bring the guided prediction's deviation back to the conditional's (arXiv 2305.08891, 15-16).

    `amount` is the paper's phi. The deviation is one number an example, over its whole noised part:
    components noised together share a factor, as they share the prediction.
    """
    factor = deviation(conditional, mask) / jnp.maximum(deviation(together, mask), 1e-12)
    return together * (amount * factor + (1.0 - amount))


def deviation(values: Latent, mask: Mask) -> Float[Array, "b 1 1 1"]:
    """Return the standard deviation over M of every example; 0 where nothing is noised."""
    mask = jnp.broadcast_to(mask, values.shape)
    axes = (1, 2, 3)
    count = jnp.maximum(jnp.sum(mask, axes, keepdims=True), 1)
    mean = jnp.sum(jnp.where(mask, values, 0.0), axes, keepdims=True) / count
    squared = jnp.where(mask, (values - mean) ** 2, 0.0)
    return jnp.sqrt(jnp.sum(squared, axes, keepdims=True) / count)
