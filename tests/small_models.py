"""Networks of SDXL's shape and next to no size, for tests of files and conversion."""

from omfa_jax.models import UNetConfig, VAEConfig

SMALL_UNET = UNetConfig(
    block_channels=(16, 32),
    layers_per_block=1,
    transformer_depth=(0, 2),
    heads=(1, 2),
    context_dim=24,
    pooled_dim=8,
    time_id_dim=8,
    norm_groups=8,
)
SMALL_VAE = VAEConfig(block_channels=(8, 16), layers_per_block=1, norm_groups=8)
