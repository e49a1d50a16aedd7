"""Network configs inferred from the shapes of tensors under diffusers' names.

For files that hold a UNet or a VAE as diffusers names it, without the config.json that belongs to
it. What shapes do not show is SDXL's, as in `ldm_names`.
"""

from collections.abc import Callable

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights.diffusers_configs import refuse_refiner
from omfa_jax.weights.ldm_names import HEAD_WIDTH, Shapes, find_width
from omfa_jax.weights.tensor_names import update_key


def make_key_fn(prefix: str) -> Callable[[str], str]:
    """Return the function that maps diffusers' keys to a file's with another beginning."""
    return lambda key: prefix + key


def infer_diffusers_unet(shapes: Shapes, prefix: str, where: str) -> UNetConfig:
    """Return the config of the UNet whose keys begin with `prefix`.

    Raises OmfaError for SDXL's refiner and for Stable Diffusion 1 and 2.
    """
    ours = {k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)}
    usual = UNetConfig()
    if not any(key.startswith("add_embedding.") for key in ours):
        raise OmfaError(
            f"{where} is a UNet of Stable Diffusion 1 or 2 (no add_embedding, SDXL's size and"
            " pooled text input): give SDXL weights"
        )
    channels, depths, layers = [], [], usual.layers_per_block
    while level := [key for key in ours if key.startswith(f"down_blocks.{len(channels)}.")]:
        here = f"down_blocks.{len(channels)}."
        widths = [f"{here}resnets.0.conv2.weight", f"{here}resnets.0.conv1.weight"]
        channels.append(find_width(ours, widths, 0, usual.block_channels[-1]))
        stack = f"{here}attentions.0.transformer_blocks."
        depths.append(len({key.split(".")[5] for key in level if key.startswith(stack)}))
        resnets = {k.split(".")[3] for k in level if k.startswith(f"{here}resnets.")}
        layers = max(1, len(resnets))
    context = [key for key in ours if key.endswith("attn2.to_k.weight")]
    context_dim = find_width(ours, context, 1, usual.context_dim)
    pooled = usual.pooled_dim + 6 * usual.time_id_dim
    added = find_width(ours, ["add_embedding.linear_1.weight"], 1, pooled)
    refuse_refiner(context_dim, added, where)
    return UNetConfig(
        in_channels=find_width(ours, ["conv_in.weight"], 1, usual.in_channels),
        out_channels=find_width(ours, ["conv_out.weight"], 0, usual.out_channels),
        block_channels=tuple(channels) or usual.block_channels,
        layers_per_block=layers,
        transformer_depth=tuple(depths) or usual.transformer_depth,
        heads=tuple(max(1, width // HEAD_WIDTH) for width in channels) or usual.heads,
        context_dim=context_dim,
        pooled_dim=added - 6 * usual.time_id_dim,
    )


def infer_diffusers_vae(shapes: Shapes, prefix: str) -> VAEConfig:
    """Return the config of the VAE whose keys begin with `prefix`."""
    usual = VAEConfig()
    ours = {update_key(k.removeprefix(prefix)): s for k, s in shapes.items()}
    channels, layers = [], usual.layers_per_block
    while any(key.startswith(f"encoder.down_blocks.{len(channels)}.") for key in ours):
        level = f"encoder.down_blocks.{len(channels)}.resnets."
        widths = [f"{level}0.conv1.weight", f"{level}0.conv2.weight"]
        channels.append(find_width(ours, widths, 0, usual.block_channels[-1]))
        layers = len({k.removeprefix(level).split(".")[0] for k in ours if k.startswith(level)})
    return VAEConfig(
        block_channels=tuple(channels) or usual.block_channels,
        layers_per_block=layers,
        latent_channels=find_width(ours, ["post_quant_conv.weight"], 0, usual.latent_channels),
    )
