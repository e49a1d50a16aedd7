"""The paper's DeepFashion-MultiModal setting: about 40,000 photos, worn garments only.

There is no builder of this set's own layout yet: put it into VITON-HD's folder layout first
(photos, parse maps, keypoints; without cloth/ the worn garment is cut out).

    omfa train --config configs/deepfashion.py --workdir runs/deepfashion \
        --config.model.init=DIR_OF_IMPORTED_SDXL --config.data.records=records/deepfashion

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
