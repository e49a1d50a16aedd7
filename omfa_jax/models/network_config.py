"""The architectures of the two networks as frozen settings, validated on construction."""

from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import FloatRange, check_fields

# valid values of the factor that brings latents to about unit variance
SCALE_RULE = FloatRange(0, 1000, exclusive_minimum=True)


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of an SDXL-style conditional UNet; the defaults are SDXL's.

    Level i of `block_channels` has a transformer of depth `transformer_depth[i]` after each of its
    resnets, or none where the depth is 0; the middle block uses the last depth. `heads` is the
    number of attention heads of each level, which diffusers calls `attention_head_dim`.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_channels: tuple[int, ...] = (320, 640, 1280)
    layers_per_block: int = 2
    transformer_depth: tuple[int, ...] = (0, 2, 10)
    heads: tuple[int, ...] = (5, 10, 20)
    context_dim: int = 2048
    pooled_dim: int = 1280
    time_id_dim: int = 256
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _check_levels("UNetConfig", self.block_channels, self.norm_groups)
        for name in ("transformer_depth", "heads"):
            if len(getattr(self, name)) != len(self.block_channels):
                raise OmfaError(
                    f"UNetConfig: {name} {getattr(self, name)} needs one entry for each of "
                    f"block_channels {self.block_channels}"
                )
        for channels, heads in zip(self.block_channels, self.heads, strict=True):
            if heads < 1 or channels % heads:
                raise OmfaError(
                    f"UNetConfig: {channels} channels do not divide into {heads} heads; change "
                    "block_channels or heads"
                )
        for name, width in (
            ("time_id_dim", self.time_id_dim),
            ("block_channels[0]", self.block_channels[0]),
        ):
            if width % 2:
                raise OmfaError(f"UNetConfig: {name} must be even (sines and cosines), got {width}")

    @property
    def time_embed_dim(self) -> int:
        """Width of the time embedding that every resnet receives."""
        return 4 * self.block_channels[0]

    @property
    def stride(self) -> int:
        """Latent sizes divisible by this never become odd at a lower level."""
        return 2 ** (len(self.block_channels) - 1)


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of an SDXL-style autoencoder; the defaults are SDXL's.

    `scaling_factor` multiplies samples of the posterior, for latents of about unit variance.
    `force_upcast` (diffusers' name) means that activations exceed float16's range, as with SDXL's
    own weights; False is only for weights fine-tuned for float16 (see `vae.make_vae_compute`).
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scaling_factor: float = 0.13025
    force_upcast: bool = True

    def __post_init__(self) -> None:
        _check_levels("VAEConfig", self.block_channels, self.norm_groups)
        check_fields("VAEConfig: ", {"scaling_factor": SCALE_RULE}, self)

    @property
    def stride(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.block_channels) - 1)


def _check_levels(owner: str, block_channels: tuple[int, ...], norm_groups: int) -> None:
    if len(block_channels) < 2:
        raise OmfaError(f"{owner}: block_channels needs 2 levels or more, got {block_channels}")
    for channels in block_channels:
        if channels % norm_groups:
            raise OmfaError(
                f"{owner}: {channels} channels do not divide into norm_groups={norm_groups}; "
                "change block_channels or norm_groups"
            )
