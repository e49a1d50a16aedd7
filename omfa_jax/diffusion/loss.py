"""The masked loss and its weight; clean parts carry no loss and no gradient."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from omfa_jax.core.errors import OmfaError


def masked_mean(
    squared: Float[Array, "b h w c"], mask: Bool[Array, "b h w _"]
) -> Float[Array, "b"]:
    """Return sum(M * squared) / sum(M) of each example: the loss without w(t) (method, 5)."""
    mask = jnp.broadcast_to(mask, squared.shape)
    # where and not a product: 0 * inf off M would be NaN
    total = jnp.sum(jnp.where(mask, squared, 0.0), axis=(1, 2, 3))
    return total / jnp.maximum(jnp.sum(mask, axis=(1, 2, 3)), 1)


def compute_loss_weight(
    prediction: str,
    min_snr_gamma: float | None,
    alpha: Float[Array, "b"],
    sigma: Float[Array, "b"],
) -> Float[Array, "b"]:
    """Return w(t): 1, or with a gamma the min-SNR weight (arXiv 2303.09556).

    That is min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v.
    """
    if min_snr_gamma is None:
        return jnp.ones_like(alpha)
    if not min_snr_gamma > 0:
        raise OmfaError(
            f"config.diffusion.min_snr_gamma must be above 0 or None, got {min_snr_gamma}"
        )
    snr = (alpha / sigma) ** 2
    clipped = jnp.minimum(snr, min_snr_gamma)
    # a zero-terminal-SNR schedule ends at SNR 0, where the epsilon weight's limit is 1
    return clipped / (snr + 1.0) if prediction == "v" else jnp.where(snr > 0, clipped / snr, 1.0)
