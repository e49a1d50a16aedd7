"""The paper's DeepFashion-MultiModal setting: about 40,000 photos, worn garments only.

    omfa data build --raw deepfashion --dataset deepfashion_multimodal --out records/deepfashion
    omfa train --config configs/deepfashion.py --workdir runs/deepfashion \
        --config.model.init=DIR_OF_IMPORTED_SDXL --config.data.records=records/deepfashion

docs/datasets.md describes the layout of the raw folder. Hardware, hours and step count are as for
`vitonhd`. No run at this size has been made yet.
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/deepfashion"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
