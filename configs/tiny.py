"""The small model that the demo starts from: a 3.2 M UNet on a 16x32 latent canvas.

    omfa data latents --config configs/tiny.py --records runs/records \
        --model runs/tiny_vae/model --out runs/latents
    omfa train --config configs/tiny.py --workdir runs/tiny \
        --config.model.init=runs/tiny_vae/model --config.data.latents=runs/latents
    python convert_weights.py export runs/tiny --out runs/exported --dtype fp16

85 minutes on two busy CPU cores. The scores are in omfa_jax/assets/tiny/README.md.
"""

from configs import tiny_vae


def get_config():
    """Return the configuration."""
    config = tiny_vae.get_config()
    config.objective = "partial_diffusion"
    config.model.init_unet = False
    config.diffusion.prediction = "v"
    config.data.prefetch = 16
    # the layout is decided at high noise levels, and a short training must focus on them
    config.timesteps.name = "logit_normal"
    config.timesteps.logit_mean = 0.5
    config.train.steps = 4300
    config.train.batch_size = 8
    config.train.ema_decay = 0.999
    config.optimizer.name = "muon"  # AdamW needs several times as many steps
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.lr_schedule = "cosine"
    config.optimizer.weight_decay = 0.01
    config.optimizer.b2 = 0.99
    config.checkpoint.every_steps = 500
    config.log.every_steps = 50
    config.sample.steps = 20
    return config
