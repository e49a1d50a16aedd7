"""`catvton1024`: CatVTON's `eval.py` at 1024 x 768; Leffa's VtonEval does the same and adds PSNR.

Ground truth is resized to the predictions' height with Lanczos, for FID and KID too. LPIPS uses
SqueezeNet on [-1, 1]. KID is printed times 1000.
"""

import dataclasses

from omfa_jax.evals.protocol_spec import ImagePreparation, Protocol, replace_options
from omfa_jax.evals.protocols.omfa import FID_CLEAN, KID_CLEAN, LPIPS, PSNR, SSIM

FULL = ImagePreparation((1024, 768), "lanczos")
FID = dataclasses.replace(FID_CLEAN, prepare=FULL)
KID = dataclasses.replace(replace_options(KID_CLEAN, small="all"), prepare=FULL)

PROTOCOL = Protocol(
    name="catvton1024",
    source="Zheng-Chong/CatVTON eval.py (September 2024); PSNR as in franciszzj/VtonEval",
    size_rule="same_aspect",
    settings={
        "paired": {
            "ssim": dataclasses.replace(SSIM, prepare=FULL),
            "psnr": dataclasses.replace(PSNR, prepare=FULL),
            "lpips": dataclasses.replace(replace_options(LPIPS, net="squeeze"), prepare=FULL),
            "fid": FID,
            "kid": KID,
        },
        "unpaired": {"fid": FID, "kid": KID},
    },
    deviations=(
        "names are matched whole (the source: 8 characters from the first digit)",
        "size is always 1024 x 768 (the source: that of the predictions)",
        "SSIM in float64 (the source: float32)",
        "KID subsets are seeded (the source: not)",
    ),
)
