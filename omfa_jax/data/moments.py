"""How VAE latents lie in a latents record: the mean alone, or the mean and then the std."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, Float32

FLOAT16_MAX = 65504.0


def pack_moments(
    mean: Float32[np.ndarray, "h w c"], std: Float32[np.ndarray, "h w c"] | None
) -> bytes:
    """Return little-endian float16: the mean, then the standard deviation if there is one.

    The deviation is kept and not the log-variance: its rounding is an absolute error below the
    mean's, while float16 holds a log-variance of -20 to 0.8% of the deviation.
    """
    planes = [mean] if std is None else [mean, std]
    return b"".join(np.ascontiguousarray(plane, "<f2").tobytes() for plane in planes)


def moments_to_latents(
    stored: bytes, shape: Sequence[int], rng: np.random.Generator | None = None
) -> Float16[np.ndarray, "h w c"]:
    """Return the latents of what `pack_moments` wrote.

    Without `rng` they are the posterior's mean; with it one sample of the posterior, or the mean
    where no deviation was stored. No bytes (no pose map) give zeros. Scaled, as the UNet
    takes them.
    """
    if not stored:
        return np.zeros(shape, "<f2")
    mean, *std = np.frombuffer(stored, "<f2").reshape(-1, *shape)
    if rng is None or not std:
        return mean
    noise = rng.standard_normal(mean.shape, np.float32)
    return (mean.astype(np.float32) + std[0].astype(np.float32) * noise).astype("<f2")
