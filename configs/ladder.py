"""The small presets of the ladder on synthetic data, for a scaling study on CPUs or one GPU.

    omfa scaling plan --config configs/ladder.py --out study --sizes ladder_12,ladder_16,ladder_24 \
        --budgets 2.8e12,5.6e12,1.1e13 --config.data.latents=latents --config.model.init=MODEL
    omfa scaling run study --parallel 2

MODEL provides the VAE and the prompts (omfa_jax/assets/tiny). docs/scaling_study.md has the hours
and the results of such a study.
"""

from configs import tiny


def get_config():
    """Return the configuration."""
    config = tiny.get_config()
    config.model.unet = "ladder_16"
    config.model.init_unet = False
    # tuned on the smallest preset; the best rate of ladder_32 as well (docs/ladder.md)
    config.optimizer.name = "adamw"
    config.optimizer.mup_base = "ladder_12"
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 0.0
    config.optimizer.lr_schedule = "cosine"
    config.train.batch_size = 4
    # in a short run, the EMA would still be dominated by the first steps
    config.train.ema_decay = 0.0
    config.log.samples_every_steps = 0
    # a study measures the held-out loss of the last step
    config.eval.split = "test"
    config.eval.loss_examples = 128
    config.eval.loss_timesteps = 8
    return config
