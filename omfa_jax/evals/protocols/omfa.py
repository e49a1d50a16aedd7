"""`omfa`: this library's reading of the metrics of the OMFA paper (arXiv 2508.04559).

The paper names SSIM, LPIPS, FID and KID (paired), FID, KID, CLIP-I, DINO and a vision model's
judgement (unpaired), and DISTS for garments. It does not give sizes, networks, or what CLIP-I and
DINO compare; those choices follow related work where two papers agree. Images are resized only
where a network requires it: a prediction must have the size of its ground truth.
"""

from omfa_jax.evals.protocol_spec import MetricSpec, Protocol

GAUSSIAN = {"channels": "rgb", "border": "reflect", "precision": "float64"}
CLEAN = {"resize": "clean", "input": "(x-128)/128"}
KID = {"subsets": 100, "subset_size": 1000, "small": "half"}

SSIM = MetricSpec("ssim", "SSIM", "higher", "truth", options=GAUSSIAN)
PSNR = MetricSpec("psnr", "PSNR (dB)", "higher", "truth", options={"ceiling_db": 120})
LPIPS = MetricSpec("lpips", "LPIPS", "lower", "truth", options={"net": "alex", "range": "-1..1"})
DISTS = MetricSpec("dists", "DISTS", "lower", "truth")
FID_CLEAN = MetricSpec("fid", "FID", "lower", "all_truth", options=CLEAN)
KID_CLEAN = MetricSpec("kid", "KID x1000", "lower", "all_truth", scale=1000, options=CLEAN | KID)
CLIP = {"model": "clip-vit-base-patch32", "resize": "short side 224 bicubic, centre crop"}
CLIP_FID = MetricSpec("clip_fid", "CLIP-FID", "lower", "all_truth", options=CLIP)
CLIP_I = MetricSpec("clip_i", "CLIP-I", "higher", "garment", options=CLIP)
DINO = MetricSpec(
    "dino",
    "DINO",
    "higher",
    "garment",
    options={"model": "dino-vits16", "resize": "224x224 bilinear", "feature": "CLS"},
)

PAIRED = {
    "ssim": SSIM,
    "psnr": PSNR,
    "lpips": LPIPS,
    "fid": FID_CLEAN,
    "kid": KID_CLEAN,
    "clip_fid": CLIP_FID,
}

PROTOCOL = Protocol(
    name="omfa",
    source="arXiv 2508.04559; sizes, networks and CLIP-I/DINO pairs are our choice",
    size_rule="same",
    settings={
        "paired": PAIRED,
        "unpaired": {
            "fid": FID_CLEAN,
            "kid": KID_CLEAN,
            "clip_fid": CLIP_FID,
            "clip_i": CLIP_I,
            "dino": DINO,
        },
        "multi_pose": PAIRED,
        "try_off": {
            "ssim": SSIM,
            "psnr": PSNR,
            "lpips": LPIPS,
            "dists": DISTS,
            "fid": FID_CLEAN,
            "kid": KID_CLEAN,
            "clip_fid": CLIP_FID,
        },
    },
)
