"""The demo's VAE: 0.7 M parameters, stride 8, 16 latent channels, on synthetic data.

    omfa data synthesize --out runs/world --train 12000 --val 64 --test 256 --seed 1
    omfa data poses --raw runs/world --style positions
    omfa data build --raw runs/world --out runs/records
    omfa train --config configs/tiny_vae.py --workdir runs/tiny_vae \
        --config.data.records=runs/records

19 minutes on one CPU core. The shipped VAE reconstructs at 27 to 32 dB PSNR
(omfa_jax/assets/tiny/README.md).
"""

from configs import base


def get_config():
    """Return the configuration."""
    config = base.get_config()
    config.objective = "autoencoder"
    config.seed = 1
    config.model.vae = "tiny"
    config.model.unet = "tiny"
    config.canvas.garment = (128, 96)
    config.canvas.person = (128, 96)
    config.canvas.face = (64, 64)
    config.data.pose_style = "positions"  # shows a small network which body part is where
    config.data.threads = 1
    config.data.prefetch = 16
    config.train.steps = 3500
    config.train.batch_size = 2
    config.train.compute_dtype = "float32"
    config.train.remat = "none"
    config.train.ema_decay = 0.998
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.lr_schedule = "cosine"
    config.optimizer.weight_decay = 0.0
    config.checkpoint.every_steps = 2500
    config.log.samples_every_steps = 0
    # small crops and batches: a small autoencoder needs many updates more than large batches
    config.autoencoder.crop_px = 64
    return config
