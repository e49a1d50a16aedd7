"""`ladi512`: LaDI-VTON's `val_metrics.py`, which MV-VTON and others use.

SSIM and LPIPS compare both images at 512 x 384 (bilinear). FID and KID are clean-fid's, between all
predictions and all test photos at their own sizes. KID is printed unscaled.
"""

import dataclasses

from omfa_jax.evals.protocol_spec import ImagePreparation, Protocol, replace_options
from omfa_jax.evals.protocols.omfa import FID_CLEAN, KID_CLEAN, LPIPS, SSIM

SMALL = ImagePreparation((512, 384), "bilinear")
KID = dataclasses.replace(replace_options(KID_CLEAN, small="all"), scale=1, label="KID")

PROTOCOL = Protocol(
    name="ladi512",
    source="miccunifi/ladi-vton src/utils/val_metrics.py",
    size_rule="same_aspect",
    settings={
        "paired": {
            "ssim": dataclasses.replace(SSIM, prepare=SMALL),
            "lpips": dataclasses.replace(LPIPS, prepare=SMALL),
            "fid": FID_CLEAN,
            "kid": KID,
        },
        "unpaired": {"fid": FID_CLEAN, "kid": KID},
    },
    deviations=(
        "Inception Score is not computed",
        "SSIM in float64 (the source: float32)",
        "KID subsets are seeded (the source: not)",
    ),
)
