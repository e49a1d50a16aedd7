"""Model sizes, one table per network; a new size is a new row or a new ladder width."""

import dataclasses
from typing import Any, TypeVar

from omfa_jax.core.errors import make_unknown_name_error
from omfa_jax.models.network_config import UNetConfig, VAEConfig

Config = TypeVar("Config", UNetConfig, VAEConfig)

# SDXL's
HEAD_DIM = 64

# Channels of the first level: powers of two and the values halfway between; 320 is SDXL.
# docs/ladder.md lists their parameters and FLOPs.
LADDER_WIDTHS = (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320)


def scale_sdxl(width: int) -> UNetConfig:
    """Return SDXL scaled to `width` channels in its first level, which has 320 in SDXL.

    Every linear size is SDXL's times width / 320: the channels of the levels (1, 2 and 4 widths),
    the widths of text, pooled text and size embeddings (rounded to 32, 1 and 4), and the depth of
    the transformers (2 and 10 in SDXL, rounded, at least 1). Parameters grow as about width^2.4.
    Fixed are three levels, the first without attention, with two resnets each. Heads have 64
    channels, fewer only where a level does not have 64 per head; norms have 32 groups of at least 4
    channels in the first level. `width` must be a multiple of 4 whose levels divide into heads.
    """
    scale = width / 320
    channels = (width, 2 * width, 4 * width)
    return UNetConfig(
        block_channels=channels,
        transformer_depth=(0, max(1, round(2 * scale)), max(1, round(10 * scale))),
        heads=tuple(-(-c // HEAD_DIM) for c in channels),
        context_dim=32 * round(2048 / 32 * scale),
        pooled_dim=4 * width,
        time_id_dim=4 * round(256 / 4 * scale),
        norm_groups=min(32, width // 4),
    )


# s, m and l keep SDXL's conditioning widths and latents, so they share its VAE and prompt table.
# tiny and xs are for tests and laptops, and are used with the VAEs of the same names.
UNETS: dict[str, UNetConfig] = {
    "tiny": UNetConfig(
        in_channels=16,
        out_channels=16,
        block_channels=(48, 96),
        layers_per_block=1,
        transformer_depth=(1, 2),
        heads=(2, 3),
        context_dim=64,
        pooled_dim=64,
        time_id_dim=16,
        norm_groups=4,
    ),
    "xs": UNetConfig(
        block_channels=(32, 64, 128),
        layers_per_block=1,
        transformer_depth=(0, 1, 2),
        heads=(1, 2, 4),
        context_dim=64,
        pooled_dim=64,
        time_id_dim=32,
        norm_groups=16,
    ),
    "s": UNetConfig(block_channels=(64, 128, 256), transformer_depth=(0, 1, 2), heads=(1, 2, 4)),
    "m": UNetConfig(block_channels=(128, 256, 512), transformer_depth=(0, 1, 4), heads=(2, 4, 8)),
    "l": UNetConfig(block_channels=(192, 384, 768), transformer_depth=(0, 2, 6), heads=(3, 6, 12)),
    "sdxl": UNetConfig(),
    **{f"ladder_{width}": scale_sdxl(width) for width in LADDER_WIDTHS},
}

VAES: dict[str, VAEConfig] = {
    "tiny": VAEConfig(
        block_channels=(16, 16, 32, 64), layers_per_block=1, latent_channels=16, norm_groups=2
    ),
    "xs": VAEConfig(block_channels=(32, 64, 96, 96), layers_per_block=1, norm_groups=16),
    "sdxl": VAEConfig(),
}


def get_unet_config(name: str, **changes: Any) -> UNetConfig:
    """Return the UNet preset `name` with the fields `changes`; OmfaError for unknown names."""
    return _replace_fields("UNet preset", UNETS, name, changes)


def get_vae_config(name: str, **changes: Any) -> VAEConfig:
    """Return the VAE preset `name` with the fields `changes`; OmfaError for unknown names."""
    return _replace_fields("VAE preset", VAES, name, changes)


def _replace_fields(
    kind: str, table: dict[str, Config], name: str, changes: dict[str, Any]
) -> Config:
    if name not in table:
        raise make_unknown_name_error(kind, name, table)
    fields = [field.name for field in dataclasses.fields(table[name])]
    for field in changes:
        if field not in fields:
            raise make_unknown_name_error(f"field of {kind} {name!r}", field, fields)
    return dataclasses.replace(table[name], **changes)
