"""Fine-tune the demo's decoder: sharper images, on latents with noise like a UNet's errors.

    omfa train --config configs/tiny_decoder.py --workdir runs/tiny_decoder \
        --config.autoencoder.decoder_of=runs/tiny_vae/model --config.data.records=runs/records

The encoder is frozen, so that a UNet can be trained on its latents at the same time. It trains on
CPUs. PSNR should not fall below the 27 to 32 dB of omfa_jax/assets/tiny/README.md.
"""

from configs import tiny_vae


def get_config():
    """Return the configuration."""
    config = tiny_vae.get_config()
    config.autoencoder.latent_noise = 0.1
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 4000
    config.train.ema_decay = 0.999
    return config
