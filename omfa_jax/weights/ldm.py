"""SDXL's original single file: its names, as a second column of the name table, and its shapes.

The UNet is one run of numbered blocks there, each block a list of layers; diffusers groups the
same modules by level. `UNET` and `VAE` take diffusers' key and give the file's, one rule a module;
whatever no rule touches has the same name in both.
"""

import re
from collections.abc import Callable, Mapping

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
# What else such files hold, and why it is not imported.
SKIPPED = {
    "conditioner.": "the text encoders",
    "denoiser.": "the schedule's constants",
    "model_ema.": "a moving average of the UNet",
}

# diffusers' word inside a module -> the file's
UNET_WORDS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_RULES = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
_UP_BLOCK = re.compile(r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.")
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
# of SDXL's attention, on every level
HEAD_WIDTH = 64

Shapes = Mapping[str, tuple[int, ...]]


def unet_column(config: UNetConfig) -> Callable[[str], str]:
    """Return the function from diffusers' UNet keys to the single file's."""
    per_level = config.layers_per_block + 1
    attends = [depth > 0 for depth in config.transformer_depth]

    def place(match: re.Match[str]) -> str:
        way, level, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0"
        if kind == "upsamplers":
            # it stands in the block of the level's last resnet, behind what is there
            return f"output_blocks.{(level + 1) * per_level - 1}.{2 if attends[-1 - level] else 1}"
        blocks, first = ("input_blocks", 1) if way == "down" else ("output_blocks", 0)
        return f"{blocks}.{first + level * per_level + layer}.{int(kind == 'attentions')}"

    def name(key: str) -> str:
        module, _, leaf = key.rpartition(".")
        for theirs, ours in UNET_ENDS.items():
            if module == theirs or module.startswith(f"{theirs}."):
                module = ours + module[len(theirs) :]
                break
        module = _LEVEL.sub(place, module, count=1)
        if ".downsamplers." in key:
            module = module.replace(".conv", ".op")
        head, _, last = module.rpartition(".")
        if ".resnets." in key:
            module = f"{head}.{UNET_WORDS[last]}"
        return f"{UNET_PREFIX}{module}.{leaf}"

    return name


def vae_column(config: VAEConfig, prefix: str) -> Callable[[str], str]:
    """Return the function from diffusers' VAE keys to the single file's."""
    top = len(config.block_channels) - 1
    words = {"resnets": "block.{}", "upsamplers": "upsample"}

    def place(match: re.Match[str]) -> str:
        # the file counts the decoder's levels from the image, diffusers from the latents
        return f".up.{top - int(match[1])}.{words[match[2]].format(match[3])}."

    def name(key: str) -> str:
        for pattern, replacement in VAE_RULES:
            key = re.sub(pattern, replacement, key)
        return prefix + _UP_BLOCK.sub(place, key)

    return name


def unet_config(shapes: Shapes, where: str) -> UNetConfig:
    """Return the UNet's config as far as the tensors' shapes tell it.

    Widths of heads and time ids and the number of norm groups leave no trace in shapes: they are
    SDXL's. A file without a UNet, or with Stable Diffusion 1's or 2's, is an OmfaError.
    """
    ours = {k.removeprefix(UNET_PREFIX): s for k, s in shapes.items() if k.startswith(UNET_PREFIX)}
    if not ours:
        found = sorted({key.split(".")[0] for key in shapes})
        raise OmfaError(
            f"{where} has no tensors {UNET_PREFIX}* (its names begin with {', '.join(found[:6])}):"
            " it is not an original SDXL checkpoint; give one, or a folder in diffusers' form"
        )
    if "label_emb.0.0.weight" not in ours:
        raise OmfaError(
            f"{where} is a Stable Diffusion 1 or 2 checkpoint (no label_emb, SDXL's size and pooled"
            " text input): give SDXL weights"
        )
    try:
        channels, depths, layers = _unet_levels(ours)
        context = next(s[1] for k, s in ours.items() if k.endswith("attn2.to_k.weight"))
        return UNetConfig(
            in_channels=ours["input_blocks.0.0.weight"][1],
            out_channels=ours["out.2.weight"][0],
            block_channels=tuple(channels),
            layers_per_block=layers,
            transformer_depth=tuple(depths),
            heads=tuple(max(1, width // HEAD_WIDTH) for width in channels),
            context_dim=context,
            pooled_dim=ours["label_emb.0.0.weight"][1] - 6 * UNetConfig.time_id_dim,
        )
    except (KeyError, IndexError, StopIteration) as error:
        raise OmfaError(f"{where}: its UNet is not shaped like SDXL's ({error!r})") from None


def vae_config(shapes: Shapes, prefix: str, where: str) -> VAEConfig:
    """Return the VAE's config as far as shapes tell it; norm groups and scale are SDXL's."""
    try:
        channels, layers = [], 0
        while f"{prefix}encoder.down.{len(channels)}.block.0.conv1.weight" in shapes:
            level = f"{prefix}encoder.down.{len(channels)}.block."
            channels.append(shapes[f"{level}0.conv1.weight"][0])
            layers = sum(k.startswith(level) and k.endswith(".conv1.weight") for k in shapes)
        return VAEConfig(
            block_channels=tuple(channels),
            layers_per_block=layers,
            latent_channels=shapes[f"{prefix}post_quant_conv.weight"][0],
        )
    except (KeyError, IndexError) as error:
        raise OmfaError(f"{where}: its VAE is not shaped like SDXL's ({error!r})") from None


def _unet_levels(ours: Shapes) -> tuple[list[int], list[int], int]:
    channels, depths, layers = [], [], []
    block, fresh = 1, True
    while any(key.startswith(f"input_blocks.{block}.") for key in ours):
        if f"input_blocks.{block}.0.op.weight" in ours:
            fresh = True
        else:
            if fresh:
                channels.append(ours[f"input_blocks.{block}.0.out_layers.3.weight"][0])
                stack = f"input_blocks.{block}.1.transformer_blocks."
                depths.append(len({k.split(".")[4] for k in ours if k.startswith(stack)}))
                layers.append(0)
            layers[-1] += 1
            fresh = False
        block += 1
    return channels, depths, layers[0]
