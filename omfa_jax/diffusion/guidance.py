"""Classifier-free guidance on the canvas, and its rescaling."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from omfa_jax.diffusion.condition_dropout import drop_conditions
from omfa_jax.diffusion.partial import Latent, Mask, make_network_input
from omfa_jax.diffusion.settings import DiffusionSettings

# (network input, timesteps, rows of the prompt table) -> prediction on the canvas
NetworkFn = Callable[
    [Float[Array, "b h w cin"], Num[Array, "b"], Int[Array, "b"]], Float[Array, "b h w c"]
]


def apply_cfg(
    network: NetworkFn,
    settings: DiffusionSettings,
    scale: float | Float[Array, ""],
    rescale: float,
    *,
    xt: Latent,
    mask: Mask,
    pose: Latent,
    t: Num[Array, "b"],
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> Latent:
    """Return the guided prediction eps_u + s (eps_c - eps_u) (method, section 7), rescaled.

    Both branches run as one batch of twice the size. With `scale` 1 the null branch is not run, and
    there is nothing to rescale; a scale that is an array is never taken for 1.
    """
    inputs, rows = make_cfg_inputs(settings, scale, xt, mask, pose, prompt, null_prompt)
    if _is_off(scale):
        return network(inputs, t, rows)
    output = network(inputs, jnp.concatenate([t, t]), rows)
    conditional, unconditional = jnp.split(output, 2)
    output = unconditional + scale * (conditional - unconditional)
    return rescale_cfg(output, conditional, mask, rescale) if rescale else output


def make_cfg_inputs(
    settings: DiffusionSettings,
    scale: float | Float[Array, ""],
    xt: Latent,
    mask: Mask,
    pose: Latent,
    prompt: Int[Array, "b"],
    null_prompt: int,
) -> tuple[Float[Array, "b2 h w cin"], Int[Array, "b2"]]:
    """Return (network input, prompt rows) of the conditional branch followed by the null branch.

    With `scale` 1 there is no null branch, and the batch keeps its size.
    """
    canvas, inputs = settings.canvas, settings.unet_inputs
    if _is_off(scale):
        return make_network_input(inputs, canvas, xt, mask, pose), prompt
    # exactly what training drops: no other null branch has been trained
    drop = jnp.ones(xt.shape[0], bool)
    null = drop_conditions(drop, xt, mask, pose, prompt, null_prompt)
    xt, pose, prompt = (
        jnp.concatenate(pair) for pair in zip((xt, pose, prompt), null, strict=True)
    )
    mask = jnp.concatenate([mask, mask])
    return make_network_input(inputs, canvas, xt, mask, pose), prompt


def rescale_cfg(guided: Latent, conditional: Latent, mask: Mask, amount: float) -> Latent:
    """Return `guided` with its standard deviation moved towards that of `conditional`.

    arXiv 2305.08891, equations 15 and 16; `amount` in [0, 1] is the paper's phi. There is one
    standard deviation per example, over its complete noised part: components that are generated
    together share a factor, as they share a prediction.
    """
    # over M only: the output off M is arbitrary, since training computes no loss there
    factor = masked_std(conditional, mask) / jnp.maximum(masked_std(guided, mask), 1e-12)
    return guided * (amount * factor + (1.0 - amount))


def masked_std(values: Latent, mask: Mask) -> Float[Array, "b 1 1 1"]:
    """Return the standard deviation of each example over M; 0 where nothing is noised."""
    mask = jnp.broadcast_to(mask, values.shape)
    axes = (1, 2, 3)
    # an example without a noised part must not divide by 0: the NaN would spoil the batch mean
    count = jnp.maximum(jnp.sum(mask, axes, keepdims=True), 1)
    mean = jnp.sum(jnp.where(mask, values, 0.0), axes, keepdims=True) / count
    squared = jnp.where(mask, (values - mean) ** 2, 0.0)
    return jnp.sqrt(jnp.sum(squared, axes, keepdims=True) / count)


def _is_off(scale: float | Float[Array, ""]) -> bool:
    return isinstance(scale, float | int) and scale == 1.0
