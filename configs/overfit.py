"""A sanity check on real photos: a handful of pairs learned by heart, from the small model.

    omfa data build --raw FOLDER --out records
    omfa train --config configs/overfit.py --workdir runs/overfit \
        --config.data.records=records --config.data.split=test
    omfa sample --checkpoint runs/overfit --task try_off --person FOLDER/test/image/PHOTO.jpg \
        --out runs/overfit/try_off

If this does not give a photo's own garment back, no large run will. About six minutes on two cores.
"""

from configs import demo


def get_config():
    """Return the configuration."""
    config = demo.get_config()
    config.train.steps = 400
    config.train.batch_size = 8
    config.train.ema_decay = 0.95
    config.diffusion.condition_dropout = 0.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 20
    config.checkpoint.every_steps = 200
    config.log.samples_every_steps = 0
    return config
