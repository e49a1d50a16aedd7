"""The UNet's FLOPs as published figures count them; by component they are in components.py.

Two FLOPs a multiply-add; norms, activations and sums are left out and taps on a convolution's
padding count, as in torch's FlopCounterMode.
"""

from dataclasses import dataclass

from omfa_jax.diffusion.packing import packings
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig
from omfa_jax.scaling.components import Components, unet_components
from omfa_jax.weights.text import TEXT_TOKENS


@dataclass
class Flops:
    """FLOPs of one forward pass of one example, by kind."""

    conv: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.conv + self.linear + self.attention


def network_components(
    settings: DiffusionSettings, config: UNetConfig, *, text_tokens: int = TEXT_TOKENS
) -> tuple[Components, ...]:
    """Return what one training example runs: the UNet, or a dual's main and reference UNets.

    A sample runs the reference once; it is counted to its last transformer block, where its work
    ends.
    """
    if not settings.reference:
        height, width, _ = settings.canvas.shape
        return (unet_components(config, height, width, text_tokens=text_tokens),)
    noised, clean = packings(settings)
    return (
        unet_components(config, *noised.size, text_tokens=text_tokens, reference=clean.size),
        unet_components(config, *clean.size, text_tokens=text_tokens, features_only=True),
    )


def unet_forward(
    config: UNetConfig, height: int, width: int, *, text_tokens: int = TEXT_TOKENS
) -> Flops:
    """Return the forward FLOPs of one example on a (height, width) latent canvas.

    A training step costs three times that, and four times with every activation recomputed.
    """
    return products(unet_components(config, height, width, text_tokens=text_tokens))


def products(count: Components) -> Flops:
    """Return a network's forward FLOPs by kind."""
    parts = (count.self_attention, count.cross_attention, count.feed_forward, count.other)
    return Flops(
        conv=count.conv.forward + count.padding,
        linear=sum(part.forward for part in parts) - count.scores,
        attention=count.scores,
    )
