"""`tryoffdiff`: TryOffDiff's `eval.py`, for try-off.

Predictions are square (512 px): they are resized to 1024 x 1024, and their middle 768 columns are
compared with the 1024 x 768 shop photo. SSIM is pyiqa's (luma only), LPIPS uses AlexNet, and DISTS
compares at 341 x 256 (cropped, then resized). FID, KID and CLIP-FID are clean-fid's on the original
files, which squeezes square predictions.
"""

import dataclasses

from omfa_jax.evals.protocol_spec import ImagePreparation, Protocol, replace_options
from omfa_jax.evals.protocols.omfa import CLIP_FID, DISTS, FID_CLEAN, KID_CLEAN, LPIPS, SSIM

CUT = ImagePreparation((1024, 768), "bilinear", "resize_then_crop")
SMALL = ImagePreparation((341, 256), "bilinear", "crop_then_resize")

PROTOCOL = Protocol(
    name="tryoffdiff",
    source="rizavelioglu/tryoffdiff modeling/eval.py; SSIM of pyiqa 0.1.14",
    size_rule="square_or_same_aspect",
    settings={
        "try_off": {
            "ssim": dataclasses.replace(
                replace_options(SSIM, channels="y of YIQ, rounded", border="valid, negatives to 0"),
                prepare=CUT,
            ),
            "lpips": dataclasses.replace(LPIPS, prepare=CUT),
            "dists": dataclasses.replace(DISTS, prepare=SMALL),
            "fid": FID_CLEAN,
            "kid": dataclasses.replace(
                replace_options(KID_CLEAN, small="all"), scale=1, label="KID"
            ),
            "clip_fid": CLIP_FID,
        }
    },
    deviations=(
        "MS-SSIM and CW-SSIM are not computed",
        "resized images are rounded to 8 bits (the source: SSIM and LPIPS on floats)",
        "DISTS is the mean over images (the source: over batches)",
        "KID subsets are seeded (the source: not)",
    ),
)
