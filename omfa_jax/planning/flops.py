"""FLOPs and parameters by kind of layer: UNet, reference UNet, VAE encoder and decoder."""

from omfa_jax.diffusion.packed_canvas import make_packed_canvases
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.planning.flop_counter import FlopCounter
from omfa_jax.weights.text_encoders import TEXT_TOKENS


def count_network_flops(
    settings: DiffusionSettings, config: UNetConfig, *, text_tokens: int = TEXT_TOKENS
) -> tuple[FlopCounter, ...]:
    """Return the counts of the networks that a training example runs through.

    One UNet, or the main and the reference UNet. The reference is counted up to its last
    transformer block: nothing after that is used.
    """
    if not settings.reference:
        height, width, _ = settings.canvas.shape
        return (count_unet_flops(config, height, width, text_tokens=text_tokens),)
    noised, clean = make_packed_canvases(settings)
    return (
        count_unet_flops(config, *noised.size, text_tokens=text_tokens, reference=clean.size),
        count_unet_flops(config, *clean.size, text_tokens=text_tokens, features_only=True),
    )


def count_unet_flops(
    config: UNetConfig,
    height: int,
    width: int,
    *,
    text_tokens: int = TEXT_TOKENS,
    reference: tuple[int, int] | None = None,
    features_only: bool = False,
) -> FlopCounter:
    """Return the counts of the UNet on a (height, width) latent canvas, for one example.

    `reference` is the latent size of a second canvas whose tokens self-attention sees too.
    `features_only` counts FLOPs and parameters up to the last transformer block, included: its
    layers run under one scan.
    """
    count, channels, last = FlopCounter(), config.block_channels, len(config.block_channels) - 1
    embed = config.time_embed_dim
    # the timestep's embedding, and SDXL's added one of pooled text and six size and crop numbers
    for c_in in (channels[0], config.pooled_dim + 6 * config.time_id_dim):
        count.add_dense(count.other, 1, c_in, embed, inner=False)
        count.add_dense(count.other, 1, embed, embed)

    beside = count_level_pixels(reference, len(channels)) if reference else [0] * len(channels)
    highest = min((i for i, depth in enumerate(config.transformer_depth) if depth), default=0)

    def transformer(size: tuple[int, int], level: int, *, ends: bool = False) -> None:
        count.add_transformer(
            size[0] * size[1],
            channels[level],
            config.heads[level],
            config.transformer_depth[level],
            text_tokens,
            config.context_dim,
            joined=beside[level],
            ends=ends,
        )

    size = count.add_convolution((height, width), config.in_channels, channels[0], inner=False)
    sizes, skips, current = [size], [channels[0]], channels[0]
    for level, c in enumerate(channels):
        for _ in range(config.layers_per_block):
            count.add_resnet(size, current, c, embed)
            transformer(size, level)
            current = c
            skips.append(c)
        if level < last:
            size = count.add_convolution(size, c, c, stride=2)
            sizes.append(size)
            skips.append(c)
    count.add_resnet(size, current, current, embed)
    if config.transformer_depth[last]:
        transformer(size, last)
        count.add_resnet(size, current, current, embed)
    # each resnet on the way up also takes the skip connection saved on the way down
    for level in range(last, -1, -1):
        c, size = channels[level], sizes[level]
        for index in range(config.layers_per_block + 1):
            skip = skips.pop()
            count.add_pointwise("skip", size[0] * size[1] * skip)
            count.add_resnet(size, current + skip, c, embed)
            ends = features_only and (level, index) == (highest, config.layers_per_block)
            transformer(size, level, ends=ends)
            if ends:
                return count
            current = c
        if level > 0:
            count.add_convolution(sizes[level - 1], c, c)
    count.add_output_layers((height, width), channels[0], config.out_channels)
    return count


def count_level_pixels(size: tuple[int, int], levels: int) -> list[int]:
    """Return the number of positions of a (height, width) canvas at each level of a UNet."""
    return [-(-size[0] // 2**level) * -(-size[1] // 2**level) for level in range(levels)]


def count_vae_flops(config: VAEConfig, height: int, width: int) -> tuple[FlopCounter, FlopCounter]:
    """Return the counts of encoder and decoder for one (height, width) image in pixels."""
    channels, z = config.block_channels, config.latent_channels
    encoder, decoder, last = FlopCounter(), FlopCounter(), len(config.block_channels) - 1
    size = encoder.add_convolution((height, width), 3, channels[0], inner=False)
    current = channels[0]
    for level, c in enumerate(channels):
        for _ in range(config.layers_per_block):
            encoder.add_resnet(size, current, c)
            current = c
        if level < last:
            # diffusers pads downsampling in the VAE at the right and bottom only
            size = encoder.add_convolution(size, c, c, stride=2, pad=(0, 1))
    _middle(encoder, size, current)
    encoder.add_output_layers(size, current, 2 * z)
    encoder.add_convolution(size, 2 * z, 2 * z, kernel=1)

    decoder.add_convolution(size, z, z, kernel=1, inner=False)
    decoder.add_convolution(size, z, current)
    _middle(decoder, size, current)
    for level, c in enumerate(reversed(channels)):
        for _ in range(config.layers_per_block + 1):
            decoder.add_resnet(size, current, c)
            current = c
        if level < last:
            size = decoder.add_convolution((2 * size[0], 2 * size[1]), c, c)
    decoder.add_output_layers(size, current, 3)
    return encoder, decoder


def _middle(count: FlopCounter, size: tuple[int, int], c: int) -> None:
    count.add_resnet(size, c, c)
    count.add_spatial_attention(size, c)
    count.add_resnet(size, c, c)
