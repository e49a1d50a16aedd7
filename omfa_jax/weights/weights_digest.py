"""The digest of a model, by which a folder of generated images knows what made them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from omfa_jax.core import trees
from omfa_jax.weights.omfa_model import Model


def compute_weights_digest(model: Model) -> str:
    """Return the SHA-256 of a model's UNet, VAE, prompts and settings."""
    digest = hashlib.sha256(json.dumps(model.settings.to_json(), sort_keys=True).encode())
    tree = {"unet": model.unet_params, "vae": model.vae_params, "prompts": dict(model.prompts)}
    for path, leaf in _leaves(tree):
        digest.update("/".join(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    # tree order: arrays that are still on disk are then read sequentially
    return iter(trees.flatten(tree))
