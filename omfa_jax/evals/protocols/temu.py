"""`temu`: TEMU-VTOFF's `metrics.py`, for try-off.

Everything is compared at 1024 x 768. LPIPS uses AlexNet; FID is pytorch-fid's (bilinear, no
antialiasing) and clean-fid's; KID is clean-fid's times 1000.
"""

import dataclasses

from omfa_jax.evals.protocol_spec import ImagePreparation, Protocol, replace_options
from omfa_jax.evals.protocols.omfa import DISTS, FID_CLEAN, KID_CLEAN, LPIPS, SSIM

FULL = ImagePreparation((1024, 768), "lanczos")
FID_PYTORCH = replace_options(FID_CLEAN, resize="pytorch", input="x/127.5-1")

PROTOCOL = Protocol(
    name="temu",
    source="TEMU-VTOFF metrics.py",
    size_rule="same_aspect",
    settings={
        "try_off": {
            "ssim": dataclasses.replace(SSIM, prepare=FULL),
            "lpips": dataclasses.replace(LPIPS, prepare=FULL),
            "dists": dataclasses.replace(DISTS, prepare=FULL),
            "fid": dataclasses.replace(FID_PYTORCH, prepare=FULL, label="FID (pytorch-fid)"),
            "fid_clean": dataclasses.replace(FID_CLEAN, prepare=FULL, label="FID (clean-fid)"),
            "kid": dataclasses.replace(replace_options(KID_CLEAN, small="all"), prepare=FULL),
        }
    },
    deviations=(
        "predictions are resized with Lanczos on 8 bits (the source: torchvision on tensors)",
        "DISTS is the mean over images (the source: over batches)",
        "SSIM in float64 (the source: float32)",
        "KID subsets are seeded (the source: not)",
    ),
)
