"""The identity of a VAE's encoder, which stored latents carry."""

import hashlib

import numpy as np

from omfa_jax.core import trees
from omfa_jax.models import VAEConfig
from omfa_jax.weights.omfa_model import Params

# the part of a VAE that computes latents
ENCODER = ("encoder", "quant_conv")


def fingerprint_vae(config: VAEConfig, params: Params) -> str:
    """Return the SHA-256 of the encoder's parameters and scaling factor.

    The decoder is left out: it may be trained further without making stored latents stale.
    """
    # the factor is part of stored latents too
    digest = hashlib.sha256(str(config.scaling_factor).encode())
    for path, leaf in sorted(trees.flatten({name: params[name] for name in ENCODER})):
        digest.update("/".join(path).encode())
        # as float32, so that the dtype in which a folder stores the weights does not matter
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()
