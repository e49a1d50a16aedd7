"""The training of `omfa demo`: continue the small pretrained model on new people for 150 steps.

    make demo

It takes about a minute on two CPU cores. The scores are in runs/demo/scores.json, and the demo
reports any that are below the expected ones.
"""

from pathlib import Path

from configs import tiny


def get_config():
    """Return the configuration."""
    config = tiny.get_config()
    config.seed = 7
    config.model.init = str(Path(__file__).parents[1] / "omfa_jax" / "assets" / "tiny")
    config.model.init_unet = True
    config.train.steps = 150
    config.train.ema_decay = 0.99
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 10
    config.checkpoint.every_steps = 50
    config.log.every_steps = 10
    config.log.samples_every_steps = 100
    config.log.samples = 4
    return config
