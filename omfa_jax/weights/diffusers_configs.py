"""Conversion between our network configs and diffusers' config.json of a UNet or VAE."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig

# The oldest diffusers whose models read these files; it is recorded in each config.json.
DIFFUSERS_VERSION = "0.27.0"

# Fields for which our networks support one value: (that value, diffusers' default if absent).
UNET_FIXED: dict[str, tuple[Any, Any]] = {
    "act_fn": ("silu", "silu"),
    "addition_embed_type": ("text_time", None),
    "attention_type": ("default", "default"),
    "center_input_sample": (False, False),
    "class_embed_type": (None, None),
    "conv_in_kernel": (3, 3),
    "conv_out_kernel": (3, 3),
    "cross_attention_norm": (None, None),
    "downsample_padding": (1, 1),
    "dual_cross_attention": (False, False),
    "encoder_hid_dim_type": (None, None),
    "flip_sin_to_cos": (True, True),
    "freq_shift": (0, 0),
    "mid_block_scale_factor": (1, 1),
    "norm_eps": (1e-5, 1e-5),
    "num_class_embeds": (None, None),
    "only_cross_attention": (False, False),
    "resnet_out_scale_factor": (1.0, 1.0),
    "resnet_skip_time_act": (False, False),
    "resnet_time_scale_shift": ("default", "default"),
    "reverse_transformer_layers_per_block": (None, None),
    "time_cond_proj_dim": (None, None),
    "time_embedding_act_fn": (None, None),
    "time_embedding_dim": (None, None),
    "time_embedding_type": ("positional", "positional"),
    "timestep_post_act": (None, None),
    "use_linear_projection": (True, False),
}
VAE_FIXED: dict[str, tuple[Any, Any]] = {
    "act_fn": ("silu", "silu"),
    "in_channels": (3, 3),
    "latents_mean": (None, None),
    "latents_std": (None, None),
    "mid_block_add_attention": (True, True),
    "out_channels": (3, 3),
    "shift_factor": (None, None),
    "use_post_quant_conv": (True, True),
    "use_quant_conv": (True, True),
}

PLAYGROUND = "latents normalised channel by channel are Playground v2.5's, not SDXL's"
# Fields that would change the UNet's architecture; they must be unset.
UNET_UNSET = (
    "class_embeddings_concat",
    "encoder_hid_dim",
    "mid_block_only_cross_attention",
    "num_attention_heads",
)
# Fields without influence on what a network computes, and all fields that are read or checked.
NEUTRAL = ("_class_name", "_diffusers_version", "_name_or_path", "sample_size")
UNET_READ = (
    *(*NEUTRAL, *UNET_FIXED, *UNET_UNSET, "in_channels", "out_channels", "block_out_channels"),
    *("layers_per_block", "down_block_types", "mid_block_type", "up_block_types"),
    *("transformer_layers_per_block", "attention_head_dim", "cross_attention_dim"),
    *("addition_time_embed_dim", "projection_class_embeddings_input_dim", "norm_num_groups"),
    # applies to other values of addition_embed_type only
    "addition_embed_type_num_heads",
)
VAE_READ = (
    *(*NEUTRAL, *VAE_FIXED, "block_out_channels", "down_block_types", "up_block_types"),
    *("layers_per_block", "latent_channels", "norm_num_groups", "scaling_factor", "force_upcast"),
)
# (cross_attention_dim, projection_class_embeddings_input_dim) of SDXL's refiner, which uses one
# text encoder and five size embeddings
REFINER = (1280, 2560)
_ADDED = "projection_class_embeddings_input_dim"

# SDXL's scheduler, for single files, which have no scheduler config.
SDXL_SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def make_diffusers_unet_config(config: UNetConfig) -> dict[str, Any]:
    """Return the config.json with which diffusers' UNet2DConditionModel is the same network."""
    # diffusers names the kind of each block, which follows from the depths here
    attends = [depth > 0 for depth in config.transformer_depth]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        **{name: value for name, (value, _) in UNET_FIXED.items()},
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.block_channels),
        "layers_per_block": config.layers_per_block,
        "down_block_types": _make_block_types("Down", attends),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if attends[-1] else "UNetMidBlock2D",
        "up_block_types": _make_block_types("Up", attends[::-1]),
        # 1 for levels without transformers, as in SDXL's own file
        "transformer_layers_per_block": [max(1, depth) for depth in config.transformer_depth],
        # diffusers' name is a misnomer: these are numbers of heads
        "attention_head_dim": list(config.heads),
        "cross_attention_dim": config.context_dim,
        "addition_time_embed_dim": config.time_id_dim,
        "projection_class_embeddings_input_dim": config.pooled_dim + 6 * config.time_id_dim,
        "norm_num_groups": config.norm_groups,
    }


def parse_diffusers_unet_config(fields: Mapping[str, Any], where: str) -> UNetConfig:
    """Return our config for diffusers' UNet fields; OmfaError, naming `where`, if unsupported."""
    try:
        return _parse_unet(fields, where)
    except (TypeError, ValueError) as error:
        raise OmfaError(f"{where} does not describe a UNet: {error}") from None


def _parse_unet(fields: Mapping[str, Any], where: str) -> UNetConfig:
    if fields.get("addition_embed_type") != "text_time":
        raise OmfaError(
            f"{where}: addition_embed_type is {fields.get('addition_embed_type')!r}, expected"
            " 'text_time' as in SDXL; Stable Diffusion 1 and 2 (cross_attention_dim 768 and 1024,"
            f" here {fields.get('cross_attention_dim')}) have none: give SDXL weights"
        )
    if fields.get("encoder_hid_dim_type") == "ip_image_proj":
        # an image-prompt adapter (IP-Adapter): its tensors are skipped when the source is opened
        fields = {**fields, "encoder_hid_dim_type": None, "encoder_hid_dim": None}
    _require_fixed(fields, UNET_FIXED, where)
    _require_fixed(fields, dict.fromkeys(UNET_UNSET, (None, None)), where)
    widths = (fields.get("cross_attention_dim"), fields.get(_ADDED))
    refuse_refiner(*widths, where)
    channels = _parse_levels(fields, "block_out_channels", where)
    down = _expand_levels(fields, "down_block_types", len(channels), where)
    attends = [block == "CrossAttnDownBlock2D" for block in down]
    expected = {
        "down_block_types": _make_block_types("Down", attends),
        "up_block_types": _make_block_types("Up", attends[::-1]),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if attends[-1] else "UNetMidBlock2D",
    }
    for name, value in expected.items():
        came = fields.get(name, "UNetMidBlock2DCrossAttn")
        if (list(came) if isinstance(came, list | tuple) else came) != value:
            raise OmfaError(f"{where}: {name} is {came}, expected {value} to match {down}")
    depths = _expand_levels(fields, "transformer_layers_per_block", len(channels), where)
    layers = set(_expand_levels(fields, "layers_per_block", len(channels), where))
    if len(layers) > 1:
        raise OmfaError(
            f"{where}: layers_per_block differs between levels ({layers}); expected one number"
        )
    # the added embedding is the pooled text followed by six embedded sizes
    time_id_dim = _require(fields, "addition_time_embed_dim", where)
    added = _require(fields, _ADDED, where)
    return UNetConfig(
        in_channels=_count(fields, "in_channels", 4, where),
        out_channels=_count(fields, "out_channels", 4, where),
        block_channels=channels,
        layers_per_block=layers.pop(),
        transformer_depth=tuple(d if a else 0 for d, a in zip(depths, attends, strict=True)),
        heads=tuple(_expand_levels(fields, "attention_head_dim", len(channels), where)),
        context_dim=_require(fields, "cross_attention_dim", where),
        pooled_dim=added - 6 * time_id_dim,
        time_id_dim=time_id_dim,
        norm_groups=_count(fields, "norm_num_groups", 32, where),
    )


def refuse_refiner(context_dim: Any, added: Any, where: str) -> None:
    """Raise an OmfaError if these widths of text and added embeddings are the refiner's."""
    if (context_dim, added) == REFINER:
        raise OmfaError(
            f"{where} is SDXL's refiner, whose text and size embeddings differ from the base"
            f" model's (widths {context_dim} and {added}): give the base model"
        )


def list_unread_fields(
    fields: Mapping[str, Any], read: Collection[str], kind: str, where: str
) -> list[str]:
    """Return notes if a config.json has another class or sets fields that are not read."""
    came = fields.get("_class_name", kind)
    notes = [] if came == kind else [f"{where}: its class is {came}, read as {kind}"]
    others = [f"{name}={fields[name]!r}" for name in sorted(fields) if name not in read]
    others = [text for text in others if not text.endswith(("=None", "=False", "=0", "=0.0"))]
    return notes + ([f"{where}: not read: {', '.join(others)}"] if others else [])


def make_diffusers_vae_config(config: VAEConfig) -> dict[str, Any]:
    """Return the config.json with which diffusers' AutoencoderKL is the same network."""
    levels = len(config.block_channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        **{name: value for name, (value, _) in VAE_FIXED.items()},
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "scaling_factor": config.scaling_factor,
        "force_upcast": config.force_upcast,
    }


def parse_diffusers_vae_config(fields: Mapping[str, Any], where: str) -> VAEConfig:
    """Return our config for diffusers' VAE fields; OmfaError, naming `where`, if unsupported."""
    try:
        return _parse_vae(fields, where)
    except (TypeError, ValueError) as error:
        raise OmfaError(f"{where} does not describe a VAE: {error}") from None


def _parse_vae(fields: Mapping[str, Any], where: str) -> VAEConfig:
    _require_fixed(fields, VAE_FIXED, where)
    channels = _parse_levels(fields, "block_out_channels", where)
    for name, block in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if list(_require(fields, name, where)) != [block] * len(channels):
            raise OmfaError(f"{where}: {name} is {fields[name]}, expected {block} on every level")
    scale = fields.get("scaling_factor", 0.18215)
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise OmfaError(f"{where}: scaling_factor is {scale!r}, expected a number above 0")
    return VAEConfig(
        block_channels=channels,
        layers_per_block=_count(fields, "layers_per_block", 1, where),
        latent_channels=_count(fields, "latent_channels", 4, where),
        norm_groups=_count(fields, "norm_num_groups", 32, where),
        scaling_factor=scale,
        force_upcast=fields.get("force_upcast", True),
    )


def _make_block_types(way: str, attends: list[bool]) -> list[str]:
    return [f"{'CrossAttn' if attended else ''}{way}Block2D" for attended in attends]


def _require_fixed(
    fields: Mapping[str, Any], fixed: Mapping[str, tuple[Any, Any]], where: str
) -> None:
    for name, (value, default) in fixed.items():
        came = fields.get(name, default)
        # null and false both mean "off" in files written by different versions
        if (came or None) != (value or None):
            why = f" ({PLAYGROUND})" if name.startswith("latents_") else ""
            raise OmfaError(f"{where}: {name} is {came!r}; only {value!r} is supported{why}")


def _require(fields: Mapping[str, Any], name: str, where: str) -> Any:
    if fields.get(name) is None:
        raise OmfaError(f"{where}: {name} is missing; fetch the file again")
    return fields[name]


def _count(fields: Mapping[str, Any], name: str, default: int, where: str) -> int:
    came = fields.get(name, default)
    if not isinstance(came, int) or came < 1:
        raise OmfaError(f"{where}: {name} is {came!r}, expected an integer above 0")
    return came


def _parse_levels(fields: Mapping[str, Any], name: str, where: str) -> tuple[int, ...]:
    value = _require(fields, name, where)
    if not isinstance(value, list | tuple) or not all(isinstance(width, int) for width in value):
        raise OmfaError(f"{where}: {name} is {value!r}, expected a list of numbers")
    return tuple(value)


def _expand_levels(fields: Mapping[str, Any], name: str, levels: int, where: str) -> list[Any]:
    value = _require(fields, name, where)
    values = list(value) if isinstance(value, list | tuple) else [value] * levels
    if any(isinstance(entry, list | tuple) for entry in values):
        raise OmfaError(
            f"{where}: {name} {value} differs within a level; expected one entry for each level"
        )
    if len(values) != levels:
        raise OmfaError(
            f"{where}: {name} is {values}, expected {levels} entries, one for each level"
        )
    return values
