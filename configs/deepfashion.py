"""The paper's DeepFashion-MultiModal setting: about 40,000 photos, worn garments only.

    omfa train --config configs/deepfashion.py --workdir runs/deepfashion \
        --config.model.init=PATH/TO/sdxl-inpainting --config.data.records=records/deepfashion

Hardware and step count as for `vitonhd`. No run at this size has been made yet.
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/deepfashion"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
