"""The masked loss: clean parts carry no loss and no gradient."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from omfa_jax.core.errors import OmfaError


def masked_mean(
    squared: Float[Array, "b h w c"], mask: Bool[Array, "b h w _"]
) -> Float[Array, "b"]:
    """Equation 3 without its weight: sum(M * squared) / sum(M) for every example."""
    mask = jnp.broadcast_to(mask, squared.shape)
    total = jnp.sum(jnp.where(mask, squared, 0.0), axis=(1, 2, 3))
    return total / jnp.maximum(jnp.sum(mask, axis=(1, 2, 3)), 1)


def weight(
    prediction: str,
    min_snr_gamma: float | None,
    alpha: Float[Array, "b"],
    sigma: Float[Array, "b"],
) -> Float[Array, "b"]:
    """w(t): 1, or min-SNR-gamma (arXiv 2303.09556): min(SNR, gamma) over SNR, or SNR + 1 for v."""
    if min_snr_gamma is None:
        return jnp.ones_like(alpha)
    if not min_snr_gamma > 0:
        raise OmfaError(f"min_snr_gamma must be above 0 or None, got {min_snr_gamma}")
    snr = (alpha / sigma) ** 2
    clipped = jnp.minimum(snr, min_snr_gamma)
    # a zero-terminal-SNR schedule ends at SNR 0, where the epsilon weight's limit is 1
    return clipped / (snr + 1.0) if prediction == "v" else jnp.where(snr > 0, clipped / snr, 1.0)
