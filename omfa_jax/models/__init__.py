"""SDXL's UNet and VAE in Flax Linen, behind plain functions of (config, params, arrays)."""

from omfa_jax.models.compute import Compute
from omfa_jax.models.network_api import (
    apply_unet,
    compute_reference_features,
    decode,
    encode,
    encode_posterior,
    get_unet_shapes,
    get_vae_shapes,
    init_unet,
    init_vae,
)
from omfa_jax.models.network_config import UNetConfig, VAEConfig
from omfa_jax.models.presets import UNETS, VAES, get_unet_config, get_vae_config
from omfa_jax.models.tiling import decode_any_size, decode_tiled, encode_any_size, encode_tiled

__all__ = [
    "UNETS",
    "VAES",
    "Compute",
    "UNetConfig",
    "VAEConfig",
    "apply_unet",
    "compute_reference_features",
    "decode",
    "decode_any_size",
    "decode_tiled",
    "encode",
    "encode_any_size",
    "encode_posterior",
    "encode_tiled",
    "get_unet_config",
    "get_unet_shapes",
    "get_vae_config",
    "get_vae_shapes",
    "init_unet",
    "init_vae",
]
