"""The UNet's FLOPs in closed form: convolutions, linear layers and attention products.

Two FLOPs a multiply-add; norms, activations and sums are left out, as in torch's FlopCounterMode.
"""

from dataclasses import dataclass
from typing import Any

from omfa_jax.diffusion.packing import packings
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig
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


def network_forward(
    settings: DiffusionSettings, config: UNetConfig, *, text_tokens: int = TEXT_TOKENS
) -> Flops:
    """Return the forward FLOPs of one training example: of one UNet, or of both of a dual."""
    if not settings.reference:
        height, width, _ = settings.canvas.shape
        return unet_forward(config, height, width, text_tokens=text_tokens)
    main, reference = dual_forward(settings, config, text_tokens=text_tokens)
    return Flops(
        main.conv + reference.conv,
        main.linear + reference.linear,
        main.attention + reference.attention,
    )


def dual_forward(
    settings: DiffusionSettings, config: UNetConfig, *, text_tokens: int = TEXT_TOKENS
) -> tuple[Flops, Flops]:
    """Return the forward FLOPs of a dual's main and reference UNets; a sample runs the latter once.

    The reference is counted to its last transformer block, where its work ends.
    """
    noised, clean = packings(settings)
    tokens: Any = {"text_tokens": text_tokens}
    main = unet_forward(config, *noised.size, reference=clean.size, **tokens)
    return main, unet_forward(config, *clean.size, features_only=True, **tokens)


def unet_forward(
    config: UNetConfig,
    height: int,
    width: int,
    *,
    text_tokens: int = TEXT_TOKENS,
    reference: tuple[int, int] | None = None,
    features_only: bool = False,
) -> Flops:
    """Return the forward FLOPs of one example on a (height, width) latent canvas.

    A training step costs three times that, and four times with every activation recomputed.
    `reference` is the size of a canvas whose tokens self-attention sees too. `features_only` ends
    with the last transformer block.
    """
    count = Flops()
    channels = config.block_channels
    embed = 4 * channels[0]
    add_in = config.pooled_dim + 6 * config.time_id_dim
    count.linear += 2 * (channels[0] * embed + embed * embed)
    count.linear += 2 * (add_in * embed + embed * embed)

    def conv(pixels: int, c_in: int, c_out: int, kernel: int = 9) -> None:
        count.conv += 2 * pixels * kernel * c_in * c_out

    def resnet(pixels: int, c_in: int, c_out: int) -> None:
        conv(pixels, c_in, c_out)
        conv(pixels, c_out, c_out)
        count.linear += 2 * embed * c_out
        if c_in != c_out:
            conv(pixels, c_in, c_out, kernel=1)

    def transformer(tokens: int, c: int, depth: int, joined: int) -> None:
        if depth:
            count.linear += 2 * tokens * 2 * c * c
            blocks(tokens, c, depth, joined)

    def blocks(tokens: int, c: int, depth: int, joined: int) -> None:
        weights = 4 * c * c + 2 * c * c + 12 * c * c
        count.linear += depth * 2 * tokens * weights
        count.linear += depth * 2 * text_tokens * 2 * config.context_dim * c
        count.linear += depth * 2 * joined * 2 * c * c
        count.attention += depth * 4 * tokens * c * (tokens + joined + text_tokens)

    pixels = level_pixels((height, width), len(channels))
    beside = level_pixels(reference, len(channels)) if reference else [0] * len(channels)
    depths, layers, last = config.transformer_depth, config.layers_per_block, len(channels) - 1

    conv(pixels[0], config.in_channels, channels[0])
    skips = [channels[0]]
    current = channels[0]
    for level, c in enumerate(channels):
        for _ in range(layers):
            resnet(pixels[level], current, c)
            transformer(pixels[level], c, depths[level], beside[level])
            current = c
            skips.append(c)
        if level < last:
            conv(pixels[level + 1], c, c)
            skips.append(c)
    resnet(pixels[last], current, current)
    transformer(pixels[last], current, depths[last], beside[last])
    resnet(pixels[last], current, current)
    highest = min((level for level, depth in enumerate(depths) if depth), default=0)
    for level in range(last, -1, -1):
        c = channels[level]
        for index in range(layers + 1):
            resnet(pixels[level], current + skips.pop(), c)
            if features_only and (level, index) == (highest, layers):
                # a scan runs whole blocks: of the last one, only the first norm is wanted
                count.linear += 2 * pixels[level] * c * c
                blocks(pixels[level], c, depths[level], 0)
                return count
            transformer(pixels[level], c, depths[level], beside[level])
            current = c
        if level > 0:
            conv(pixels[level - 1], c, c)
    conv(pixels[0], channels[0], config.out_channels)
    return count


def level_pixels(size: tuple[int, int], levels: int) -> list[int]:
    """Return the pixels of a (height, width) canvas at each level of a UNet."""
    return [-(-size[0] // 2**level) * -(-size[1] // 2**level) for level in range(levels)]
