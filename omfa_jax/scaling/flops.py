"""The UNet's FLOPs in closed form: convolutions, linear layers and attention products.

Two FLOPs a multiply-add; norms, activations and sums are left out, as in torch's FlopCounterMode.
"""

from dataclasses import dataclass

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


def unet_forward(
    config: UNetConfig, height: int, width: int, *, text_tokens: int = TEXT_TOKENS
) -> Flops:
    """Return the forward FLOPs of one example on a (height, width) latent canvas.

    A training step costs three times that, and four times with every activation recomputed.
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

    def transformer(tokens: int, c: int, depth: int) -> None:
        if not depth:
            return
        count.linear += 2 * tokens * 2 * c * c
        weights = 4 * c * c + 2 * c * c + 12 * c * c
        count.linear += depth * 2 * tokens * weights
        count.linear += depth * 2 * text_tokens * 2 * config.context_dim * c
        count.attention += depth * 4 * tokens * c * (tokens + text_tokens)

    sizes = [(height, width)]
    for _ in channels[1:]:
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    pixels = [h * w for h, w in sizes]
    depths, layers, last = config.transformer_depth, config.layers_per_block, len(channels) - 1

    conv(pixels[0], config.in_channels, channels[0])
    skips = [channels[0]]
    current = channels[0]
    for level, c in enumerate(channels):
        for _ in range(layers):
            resnet(pixels[level], current, c)
            transformer(pixels[level], c, depths[level])
            current = c
            skips.append(c)
        if level < last:
            conv(pixels[level + 1], c, c)
            skips.append(c)
    resnet(pixels[last], current, current)
    transformer(pixels[last], current, depths[last])
    resnet(pixels[last], current, current)
    for level in range(last, -1, -1):
        c = channels[level]
        for _ in range(layers + 1):
            resnet(pixels[level], current + skips.pop(), c)
            transformer(pixels[level], c, depths[level])
            current = c
        if level > 0:
            conv(pixels[level - 1], c, c)
    conv(pixels[0], channels[0], config.out_channels)
    return count
