"""Both data sets in one model: what the title promises and the released weights do not do.

Build both record folders into one (`omfa data build` takes several --raw) and train on it:

    omfa train --config configs/both.py --workdir runs/both \
        --config.model.init=PATH/TO/sdxl-inpainting --config.data.records=records/both
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/both"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
