"""The paper's VITON-HD setting: 11,647 pairs at 768x1024, 65,000 steps with batch size 8.

    omfa data build --raw VITON-HD --out records/vitonhd
    omfa train --config configs/vitonhd.py --workdir runs/vitonhd \
        --config.model.init=imported

Hardware: four GPUs of 80 GB. A two-image canvas takes an estimated 37 A100-hours at 40% MFU
(`omfa plan` estimates others). No run at this size has been made yet, so there are
no reference scores yet.

`init` is SDXL base, imported with a prompt table (`convert_weights.py import`). For SDXL-inpainting
weights set config.diffusion.unet_inputs as configs/base.py describes.
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/vitonhd"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
