"""A sanity check on real photos: overfit the small model to a handful of pairs.

    omfa data build --raw FOLDER --out records
    omfa train --config configs/overfit.py --workdir runs/overfit \
        --config.data.records=records --config.data.split=test
    omfa sample --checkpoint runs/overfit --task try_off --person FOLDER/test/image/PHOTO.jpg \
        --null-pose --out runs/overfit/try_off

It takes about six minutes on two CPU cores. The sampled garment must be the one in the photo; if it
is not, there is an error in the data or its preparation, and a large run will fail as well.
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
