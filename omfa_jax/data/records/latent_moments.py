"""Pack the moments of the VAE's posterior into bytes: the mean, or mean and standard deviation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, Float32

FLOAT16_MAX = 65504.0


def pack_moments(
    mean: Float32[np.ndarray, "h w c"], std: Float32[np.ndarray, "h w c"] | None
) -> bytes:
    """Return little-endian float16: the mean, then the standard deviation if given.

    The standard deviation is stored rather than the log-variance. Its rounding error is absolute
    and below the mean's; float16 rounds a log-variance of -20 to 0.8% of the deviation.
    """
    planes = [mean] if std is None else [mean, std]
    return b"".join(np.ascontiguousarray(plane, "<f2").tobytes() for plane in planes)


def unpack_latents(
    stored: bytes, shape: Sequence[int], rng: np.random.Generator | None = None
) -> Float16[np.ndarray, "h w c"]:
    """Return the latents in bytes of `pack_moments`, scaled as the UNet expects them.

    With `rng`: a sample of the posterior, if the standard deviation is stored. Otherwise its mean.
    Empty bytes (no pose map) give zeros.
    """
    if not stored:
        return np.zeros(shape, "<f2")
    mean, *std = np.frombuffer(stored, "<f2").reshape(-1, *shape)
    if rng is None or not std:
        return mean
    noise = rng.standard_normal(mean.shape, np.float32)
    return (mean.astype(np.float32) + std[0].astype(np.float32) * noise).astype("<f2")
