"""One UNet with partial diffusion, or two: the paper's ablation on small pictures.

    omfa train --config configs/ablation.py --workdir runs/single --config.model.init=MODEL \
        --config.data.latents=LATENTS
    omfa train --config configs/ablation.py --workdir runs/dual --config.model.init=MODEL \
        --config.data.latents=LATENTS --config.model.reference=True

`bench/ablation.py` runs both and prints the table of docs/ablation.md. MODEL is
omfa_jax/assets/tiny, of which only the VAE and the prompts are taken. Pictures are half the size of
configs/tiny.py, so that two trainings from scratch fit into an hour of a busy two-core machine.
"""

from configs import tiny


def get_config():
    """Return the configuration; `config.model.reference` is the only thing that differs."""
    config = tiny.get_config()
    config.seed = 3
    config.canvas.garment = (64, 48)
    config.canvas.person = (64, 48)
    config.canvas.face = (32, 32)
    config.train.steps = 500
    config.train.ema_decay = 0.99
    config.optimizer.warmup_steps = 100
    config.checkpoint.every_steps = 250
    config.checkpoint.max_to_keep = 1
    config.log.samples_every_steps = 0
    return config
