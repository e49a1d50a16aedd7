"""Partial diffusion: only the masked part of the joint latent is noised and denoised.

M (`mask`) is True where a component is generated. docs/method.md, sections 3 and 4, has the
equations.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.diffusion.canvas import Canvas

INPUTS = ("noisy", "mask", "clean", "pose")
PREDICTION_TYPES = ("epsilon", "v")
# diffusers replaces alpha = 0 by this value too; SDXL's own schedule stays above it
MIN_ALPHA = 2.0**-12

Latent = Float[Array, "b h w c"]
Mask = Bool[Array, "b h w _"]


def broadcast_per_example(scale: Float[Array, "b"]) -> Float[Array, "b 1 1 1"]:
    """Return a per-example factor in a shape that broadcasts over the canvas."""
    return scale[:, None, None, None]


def keep_clean(mask: Mask, generated: Latent, clean: Latent) -> Latent:
    """Return `generated` on M and `clean`, bit for bit, off M."""
    # where and not M * a + (1 - M) * b: rounding would change the clean part, and a NaN of the
    # generated part would reach it
    return jnp.where(mask, generated, clean)


def corrupt(
    x0: Latent, eps: Latent, mask: Mask, alpha: Float[Array, "b"], sigma: Float[Array, "b"]
) -> Latent:
    """Return x_t = M (alpha_t x0 + sigma_t eps) + (1 - M) x0 (method, section 3)."""
    return keep_clean(
        mask, broadcast_per_example(alpha) * x0 + broadcast_per_example(sigma) * eps, x0
    )


def compute_target(
    prediction: str, x0: Latent, eps: Latent, alpha: Float[Array, "b"], sigma: Float[Array, "b"]
) -> Latent:
    """Return the training target: eps, or v = alpha eps - sigma x0 (arXiv 2202.00512)."""
    if prediction == "epsilon":
        return eps
    if prediction == "v":
        return broadcast_per_example(alpha) * eps - broadcast_per_example(sigma) * x0
    raise make_unknown_name_error("prediction type", prediction, PREDICTION_TYPES)


def predict_x0_and_eps(
    prediction: str,
    output: Latent,
    xt: Latent,
    alpha: Float[Array, "b"],
    sigma: Float[Array, "b"],
) -> tuple[Latent, Latent]:
    """Return (x0_hat, eps_hat) from the network's output; valid on M only.

    For `epsilon`, x0_hat is Tweedie's formula (x_t - sigma_t eps_hat) / alpha_t. It is finite for
    pure noise too, where alpha_t = 0 is replaced by MIN_ALPHA.
    """
    a, s = broadcast_per_example(alpha), broadcast_per_example(sigma)
    if prediction == "epsilon":
        return (xt - s * output) / jnp.maximum(a, MIN_ALPHA), output
    if prediction == "v":
        return a * xt - s * output, a * output + s * xt
    raise make_unknown_name_error("prediction type", prediction, PREDICTION_TYPES)


def count_input_channels(inputs: Sequence[str], canvas: Canvas) -> int:
    """Return the width of conv_in for `unet_inputs`, whose order is the order of the channels."""
    for name in inputs:
        if name not in INPUTS:
            raise make_unknown_name_error("entry of unet_inputs", name, INPUTS)
    if not inputs or inputs[0] != "noisy" or "mask" not in inputs:
        raise OmfaError(
            f"config.diffusion.unet_inputs must begin with 'noisy' and contain 'mask', got"
            f" {tuple(inputs)}: pretrained weights expect the noisy channels first"
        )
    return sum(canvas.mask_channels if name == "mask" else canvas.shape[2] for name in inputs)


def make_network_input(
    inputs: Sequence[str], canvas: Canvas, xt: Latent, mask: Mask, pose: Latent
) -> Float[Array, "b h w cin"]:
    """Return [x_t, M, extra] stacked on channels in the order of `inputs` (method, section 4).

    `clean` is x_t with the noised part set to zero: the given components alone.
    """
    # built on demand: an input that the model does not use costs nothing
    parts = {
        "noisy": lambda: xt,
        "mask": lambda: canvas.make_mask_input(mask),
        "clean": lambda: jnp.where(mask, 0.0, xt),
        "pose": lambda: pose,
    }
    return jnp.concatenate([parts[name]() for name in inputs], axis=-1)
