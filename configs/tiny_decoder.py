"""The demo's decoder once more: sharper, on larger crops and on latents as a UNet leaves them.

    omfa train --config configs/tiny_decoder.py --workdir runs/tiny_decoder \
        --config.autoencoder.decoder_of=runs/tiny_vae/model --config.data.records=runs/records

The encoder stays as it is, so that a UNet may be trained on its latents at the same time.
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
