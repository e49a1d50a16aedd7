"""Both data sets in one model: what the title promises and the released weights do not do.

Each is built by itself; of ten examples about two are VITON-HD's and eight DeepFashion's, as of the
photos (11,647 and about 40,000).

    omfa train --config configs/both.py --workdir runs/both \
        --config.model.init=DIR_OF_IMPORTED_SDXL
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.mixture = "records/vitonhd=0.2,records/deepfashion=0.8"
    config.data.records = "records/vitonhd"  # what sample pictures are of
    config.data.multi_pose_prob = 0.5  # of DeepFashion's; nobody has two poses in VITON-HD
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
