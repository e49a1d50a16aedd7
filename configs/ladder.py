"""The small end of the ladder on the synthetic world, for a scaling study on CPUs or one GPU.

    omfa scaling plan --config configs/ladder.py --out study --sizes ladder_12,ladder_16,ladder_24 \
        --budgets 2.8e12,5.6e12,1.1e13 --config.data.latents=latents --config.model.init=MODEL
    omfa scaling run study --parallel 2

MODEL gives the VAE and the prompts (omfa_jax/assets/tiny). docs/scaling_study.md has a study's
hours and figures.
"""

from configs import tiny


def get_config():
    """Return the configuration."""
    config = tiny.get_config()
    config.model.unet = "ladder_16"
    config.model.init_unet = False
    # the rate found at the smallest rung; the best of ladder_32 too (docs/ladder.md)
    config.optimizer.name = "adamw"
    config.optimizer.mup_base = "ladder_12"
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 0.0
    config.optimizer.lr_schedule = "cosine"
    config.train.batch_size = 4
    # a short run's average would be of its first steps
    config.train.ema_decay = 0.0
    config.log.samples_every_steps = 0
    # the last step's held-out loss is what a study measures
    config.eval.split = "test"
    config.eval.loss_examples = 128
    config.eval.loss_timesteps = 8
    return config
