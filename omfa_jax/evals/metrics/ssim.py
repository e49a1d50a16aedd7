"""SSIM in the variants that try-on papers use; scikit-image computes, in float64.

All have Wang's Gaussian window (11 taps, deviation 1.5) and K = 0.01, 0.03; they differ in the
channels and at the border:
- "rgb", "reflect": torchmetrics' default. Each channel by itself; the picture is mirrored outwards,
  and every pixel counts.
- "y of YIQ, rounded", "valid, negatives to 0": pyiqa's `ssim`. Luma 0.299, 0.587, 0.114, rounded to
  whole levels; only windows inside the picture count, and negative similarities count as 0.
"""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.errors import OmfaError, require_modules

LUMA = np.array([0.299, 0.587, 0.114])
MARGIN_PX = 5  # of an 11-tap window
WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def ssim(
    image: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w 3"], options: dict[str, Any]
) -> float:
    """Return the mean structural similarity, at most 1; `options` are the protocol's."""
    require_modules("SSIM", "eval", "skimage")
    from skimage.metrics import structural_similarity

    if image.shape != truth.shape or min(image.shape[:2]) <= 2 * MARGIN_PX:
        raise OmfaError(
            f"SSIM needs two pictures of one size over 10 px, got {image.shape} and {truth.shape}"
        )
    if (options["channels"], options["border"]) == ("rgb", "reflect"):
        # scikit-image leaves a margin out of its mean: exactly what the mirrored frame adds
        frame = ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0))
        pair = (np.pad(picture, frame, mode="reflect") for picture in (image, truth))
        made: Any = structural_similarity(*pair, channel_axis=2, **WINDOW)
        return float(made)
    if options["border"] == "valid, negatives to 0":
        pair = (np.round(picture @ LUMA) for picture in (image, truth))
        made = structural_similarity(*pair, full=True, **WINDOW)
        inside = made[1][MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        return float(inside.clip(min=0).mean())
    raise OmfaError(f"SSIM has no variant {options['channels']!r}, {options['border']!r}")
