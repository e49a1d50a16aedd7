"""The paper's VITON-HD setting: 11,647 pairs, 768x1024, 65,000 steps of 8 on four 80 GB GPUs.

    omfa data build --raw zalando-hd-resized --out records/vitonhd
    omfa train --config configs/vitonhd.py --workdir runs/vitonhd \
        --config.model.init=PATH/TO/sdxl-inpainting --config.data.records=records/vitonhd

At 40% MFU the two-component cost table puts it near 37 A100-hours a card-count of one;
no run at this size has been made with this code yet, so no score is promised.
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/vitonhd"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
