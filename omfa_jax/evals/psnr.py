"""Peak signal-to-noise ratio of 8-bit images, overall or inside a region."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, UInt8

from omfa_jax.core.errors import OmfaError

PEAK = 255.0
# equal images have infinite PSNR, which would spoil every mean; one wrong grey level in a 2048 px
# square has about this value
CEILING_DB = 120.0


def psnr(
    image: UInt8[np.ndarray, "h w 3"],
    truth: UInt8[np.ndarray, "h w 3"],
    region: Bool[np.ndarray, "h w"] | None = None,
) -> float:
    """Return 10 log10(255^2 / MSE) in dB over `region` (True: counted), at most CEILING_DB."""
    if image.shape != truth.shape:
        raise OmfaError(f"PSNR needs two images of one size, got {image.shape} and {truth.shape}")
    # uint8 differences would wrap around
    squared = (image.astype(np.float64) - truth.astype(np.float64)) ** 2
    if region is not None:
        if not region.any():
            raise OmfaError("PSNR region is empty: there are no pixels to compare")
        squared = squared[region]
    error = float(squared.mean())
    return CEILING_DB if error == 0 else min(CEILING_DB, 10 * float(np.log10(PEAK**2 / error)))


def mean_psnr(
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    truths: Iterable[UInt8[np.ndarray, "h w 3"]],
    regions: Iterable[Bool[np.ndarray, "h w"]] | None = None,
) -> float:
    """Return the mean of the images' PSNRs in dB (each image counts once)."""
    images = list(images)
    chosen = [None] * len(images) if regions is None else regions
    return float(np.mean([psnr(*row) for row in zip(images, truths, chosen, strict=True)]))
