"""Names of SDXL's original single-file format, and network configs inferred from its shapes.

There the UNet is one sequence of numbered blocks, each a list of layers; diffusers groups the same
modules by level. `make_unet_key_fn` and `make_vae_key_fn` map a diffusers key to the file's. Names
without a rule are equal in both.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights.diffusers_configs import refuse_refiner

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
# Other contents of such files, which are not imported.
SKIPPED = {
    "conditioner.": "the text encoders, which are read only to embed prompts",
    "cond_stage_model.": "the text encoder of Stable Diffusion 1 or 2",
    "text_encoder": "the text encoders, which are not read under these names",
    "denoiser.": "the schedule's constants",
    "model_ema.": "a moving average of the UNet",
}
# what files of a VAE hold besides it
VAE_SKIPPED = {"loss.": "the loss that the VAE was trained with", "model_ema.": "a moving average"}

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
# channels per attention head in SDXL, at every level
HEAD_WIDTH = 64

Shapes = Mapping[str, tuple[int, ...]]


def make_unet_key_fn(config: UNetConfig, prefix: str = UNET_PREFIX) -> Callable[[str], str]:
    """Return the function that maps diffusers' UNet keys to the single file's."""
    per_level = config.layers_per_block + 1
    attends = [depth > 0 for depth in config.transformer_depth]

    def place(match: re.Match[str]) -> str:
        way, level, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0"
        if kind == "upsamplers":
            # it is in the block of the level's last resnet, after the resnet and its attention
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
        # the file calls a downsampling convolution `op` and an upsampling one `conv`
        if ".downsamplers." in key:
            module = module.replace(".conv", ".op")
        head, _, last = module.rpartition(".")
        if ".resnets." in key:
            module = f"{head}.{UNET_WORDS[last]}"
        return f"{prefix}{module}.{leaf}"

    return name


def make_vae_key_fn(config: VAEConfig, prefix: str) -> Callable[[str], str]:
    """Return the function that maps diffusers' VAE keys to the single file's."""
    top = len(config.block_channels) - 1
    words = {"resnets": "block.{}", "upsamplers": "upsample"}

    def place(match: re.Match[str]) -> str:
        # the file numbers the decoder's levels from the image, diffusers from the latents
        return f".up.{top - int(match[1])}.{words[match[2]].format(match[3])}."

    def name(key: str) -> str:
        for pattern, replacement in VAE_RULES:
            key = re.sub(pattern, replacement, key)
        return prefix + _UP_BLOCK.sub(place, key)

    return name


def infer_unet_config(shapes: Shapes, where: str, prefix: str = UNET_PREFIX) -> UNetConfig:
    """Return the config of the UNet whose keys begin with `prefix`, as inferred from its shapes.

    Head width, size embedding width and number of norm groups do not appear in shapes and are taken
    from SDXL. So is what a missing tensor would have shown, so that the later comparison of names
    reports just that tensor. Raises OmfaError for SDXL's refiner and for Stable Diffusion 1 and 2.
    """
    ours = {k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)}
    if not any(key.startswith("label_emb.") for key in ours):
        raise OmfaError(
            f"{where} is a Stable Diffusion 1 or 2 checkpoint (no label_emb, SDXL's size and pooled"
            " text input): give SDXL weights"
        )
    # the defaults are SDXL's, for what shapes do not show
    usual = UNetConfig()
    channels, depths, layers = _infer_unet_levels(ours)
    keys = [key for key in ours if key.endswith("attn2.to_k.weight")]
    pooled = usual.pooled_dim + 6 * usual.time_id_dim
    context_dim = find_width(ours, keys, 1, usual.context_dim)
    added = find_width(ours, ["label_emb.0.0.weight"], 1, pooled)
    refuse_refiner(context_dim, added, where)
    return UNetConfig(
        in_channels=find_width(ours, ["input_blocks.0.0.weight"], 1, usual.in_channels),
        out_channels=find_width(ours, ["out.2.weight"], 0, usual.out_channels),
        block_channels=tuple(channels),
        layers_per_block=layers,
        transformer_depth=tuple(depths),
        heads=tuple(max(1, width // HEAD_WIDTH) for width in channels),
        context_dim=context_dim,
        pooled_dim=added - 6 * usual.time_id_dim,
    )


def infer_vae_config(shapes: Shapes, prefix: str) -> VAEConfig:
    """Return the VAE's config as inferred from shapes; norm groups and scale are SDXL's."""
    usual = VAEConfig()
    channels, layers = [], usual.layers_per_block
    while any(key.startswith(f"{prefix}encoder.down.{len(channels)}.block.") for key in shapes):
        level = f"{prefix}encoder.down.{len(channels)}.block."
        widths = [f"{level}0.conv1.weight", f"{level}0.conv2.weight"]
        channels.append(find_width(shapes, widths, 0, usual.block_channels[-1]))
        layers = len({k.removeprefix(level).split(".")[0] for k in shapes if k.startswith(level)})
    latents = [f"{prefix}post_quant_conv.weight"]
    return VAEConfig(
        block_channels=tuple(channels) or usual.block_channels,
        layers_per_block=layers,
        latent_channels=find_width(shapes, latents, 0, usual.latent_channels),
    )


def find_width(shapes: Shapes, keys: Sequence[str], axis: int, usual: int) -> int:
    """Return the length of an axis of the first of `keys` that has it, else `usual`."""
    found = (shapes[key][axis] for key in keys if len(shapes.get(key, ())) > axis)
    return next(found, usual)


def _infer_unet_levels(ours: Shapes) -> tuple[list[int], list[int], int]:
    channels, depths, layers = [], [], []
    block, fresh = 1, True
    while any(key.startswith(f"input_blocks.{block}.") for key in ours):
        here = f"input_blocks.{block}."
        # a block with `op` is a downsampling, after which the next level begins
        if any(key.startswith(f"{here}0.op.") for key in ours):
            fresh = True
        else:
            if fresh:
                widths = [f"{here}0.out_layers.3.weight", f"{here}0.in_layers.2.weight"]
                channels.append(find_width(ours, widths, 0, UNetConfig().block_channels[-1]))
                stack = f"{here}1.transformer_blocks."
                depths.append(len({k.split(".")[4] for k in ours if k.startswith(stack)}))
                layers.append(0)
            layers[-1] += 1
            fresh = False
        block += 1
    if not channels:
        usual = UNetConfig()
        return list(usual.block_channels), list(usual.transformer_depth), usual.layers_per_block
    return channels, depths, layers[0]
