"""Both data sets in one model: what the title promises and the released weights do not do.

It waits for a DeepFashion-MultiModal builder: put that set into VITON-HD's folder layout, beside
VITON-HD's files, and build the one folder.

    omfa train --config configs/both.py --workdir runs/both \
        --config.model.init=DIR_OF_IMPORTED_SDXL --config.data.records=records/both
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.data.records = "records/both"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
