"""VITON-HD and DeepFashion-MultiModal in one model, as in the paper's title.

    omfa data build --raw VITON-HD --out records/vitonhd
    omfa data build --raw deepfashion --dataset deepfashion_multimodal --out records/deepfashion
    omfa train --config configs/both.py --workdir runs/both \
        --config.model.init=DIR_OF_IMPORTED_SDXL

20% of the examples are VITON-HD's and 80% DeepFashion's, which is the ratio of their photos (11,647
to about 40,000). Hardware and hours are as for `vitonhd`. No run at this size has been made yet.
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.mixture = "records/vitonhd=0.2,records/deepfashion=0.8"
    config.data.records = "records/vitonhd"  # source of the sample images
    config.data.multi_pose_prob = 0.5  # only DeepFashion has outfits in several poses
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
