"""SSIM in the variants that try-on papers use, computed by scikit-image in float64.

All use the Gaussian window of Wang et al. 2004 (11 taps, sigma 1.5) and K = 0.01, 0.03. They differ
in the channels and at the border:
- "rgb", "reflect": torchmetrics' default. Channels are separate; the image is padded by reflection
  and every pixel counts.
- "y of YIQ, rounded", "valid, negatives to 0": pyiqa's `ssim`. Luma 0.299, 0.587, 0.114, rounded to
  integers; only windows inside the image count, and negative similarities count as 0.
"""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from omfa_jax.core.errors import OmfaError, require_modules

LUMA = np.array([0.299, 0.587, 0.114])
MARGIN_PX = 5  # half of the 11-tap window
WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def ssim(
    image: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w 3"], options: dict[str, Any]
) -> float:
    """Return the mean structural similarity (at most 1); `options` are the protocol's."""
    require_modules("SSIM", "eval", "skimage")
    from skimage.metrics import structural_similarity

    if image.shape != truth.shape or min(image.shape[:2]) <= 2 * MARGIN_PX:
        raise OmfaError(
            f"SSIM needs two images of one size above 10 px, got {image.shape} and {truth.shape}"
        )
    if (options["channels"], options["border"]) == ("rgb", "reflect"):
        # scikit-image excludes a margin from its mean, which is exactly the padding added here
        frame = ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0))
        pair = (np.pad(one, frame, mode="reflect") for one in (image, truth))
        made: Any = structural_similarity(*pair, channel_axis=2, **WINDOW)
        return float(made)
    if options["border"] == "valid, negatives to 0":
        pair = (np.round(one @ LUMA) for one in (image, truth))
        made = structural_similarity(*pair, full=True, **WINDOW)
        inside = made[1][MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        return float(inside.clip(min=0).mean())
    raise OmfaError(f"SSIM has no variant {options['channels']!r}, {options['border']!r}")
