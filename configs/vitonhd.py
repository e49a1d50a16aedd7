"""The paper's VITON-HD setting: 11,647 pairs, 768x1024, 65,000 steps of 8 on four 80 GB GPUs.

    omfa data build --raw zalando-hd-resized --out records/vitonhd
    omfa train --config configs/vitonhd.py --workdir runs/vitonhd \
        --config.model.init=DIR_OF_IMPORTED_SDXL --config.data.records=records/vitonhd

`init` is SDXL base with a prompt table (README, "weights, both ways"); for SDXL-inpainting weights
set `unet_inputs` as base.py says. At 40% MFU a two-image canvas would take 37 A100-hours; no run at
this size has been made with this code yet, so no score is promised.
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/vitonhd"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
