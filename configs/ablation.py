"""The paper's ablation on small images: one UNet with partial diffusion against two UNets.

    omfa train --config configs/ablation.py --workdir runs/single --config.model.init=MODEL \
        --config.data.latents=LATENTS
    omfa train --config configs/ablation.py --workdir runs/reference --config.model.init=MODEL \
        --config.data.latents=LATENTS --config.model.reference=True

`bench/dual_vs_single.py` runs both and prints the table of docs/ablation.md, which has the scores.
MODEL is omfa_jax/assets/tiny, of which only the VAE and the prompts are used. Images are half the
size of configs/tiny.py, so that both trainings from scratch take about an hour on a busy two-core
machine.
"""

from configs import tiny


def get_config():
    """Return the configuration; `config.model.reference` selects between the two."""
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
