"""What a file of tensors holds, told from the names of its tensors."""

import re
from collections.abc import Collection

from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.tensor_files import format_names

KOHYA, PEFT = "a LoRA with kohya's names", "a LoRA with PEFT's or diffusers' names"
OTHER_ADAPTER = "an adapter other than a plain LoRA (such as DoRA, LoHa, LoKr or OFT)"
# (pattern in a tensor's name, what the file holds), the first match wins
ADAPTERS: tuple[tuple[str, str], ...] = (
    (
        r"\.dora_scale$|[._]lora_(mid|magnitude_vector)|\.hada_w|\.lokr_w|\.oft_(blocks|diag)"
        r"|\.(on_input|diff|diff_b)$",
        OTHER_ADAPTER,
    ),
    (r"\.lora_(down|up)\.|^lora_(unet|te\d?)_", KOHYA),
    (r"[._]lora_(A|B|linear_layer)\b|[._]lora\.(down|up)\.", PEFT),
)
CONTENTS: tuple[tuple[str, str], ...] = (
    *ADAPTERS,
    (r"^image_proj\.|^ip_adapter\.", "an IP-Adapter"),
    (r"input_hint_block|zero_convs|controlnet_|^control_model\.", "a ControlNet"),
    (r"^(adapter\.)?body\.\d+\.(in_conv|resnets|block)", "a T2I-Adapter"),
    (r"^(emb_params|clip_[gl]|string_to_param.*|<.*>)$", "a textual inversion"),
    (r"joint_blocks\.|joint_transformer_blocks\.", "Stable Diffusion 3"),
    (r"double_blocks\.|single_transformer_blocks\.", "Flux or a relative"),
    (r"motion_modules\.", "a motion module of AnimateDiff"),
    (r"\.channelwise\.\d|(^|\.)(clip_txt_mapper|effnet_mapper)\.", "Stable Cascade"),
    (r"(^|\.)(caption_projection|y_embedder)\.", "PixArt or a relative"),
    (r"^(optimizer|exp_avg|state)\.|\.exp_avg", "the state of an optimizer"),
    (r"(^|\.)(vision_model|visual)\.", "an image encoder"),
    (r"(^|\.)(text_model|resblocks)\.", "text encoders"),
    (r"(^|\.)(encoder|decoder)\.(down|up|mid)", "a VAE"),
    (r"(^|\.)(input_blocks|output_blocks|down_blocks|up_blocks)\.", "a UNet"),
    (r"^(model\.diffusion_model\.)?(transformer_)?(blocks|layers)\.\d", "a diffusion transformer"),
)
ADVICE = {
    KOHYA: "give the base model as SRC and merge this file with --lora",
    PEFT: "give the base model as SRC and merge this file with --lora",
    OTHER_ADAPTER: "merge it into the base model with the tool that made it",
    "a VAE": "give the base model as SRC and this file with --vae",
    "text encoders": "give the base model as SRC and this file with --text-encoders",
}
# names that only quantised files have -> how they are quantised
QUANTISED: tuple[tuple[str, str], ...] = (
    (r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale|scale_input|comfy_quant)$", "scaled float8"),
    (r"\.(absmax|quant_map|nested_absmax)$|\.quant_state\.|bitsandbytes", "bitsandbytes"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.(wscales|wtscale|smooth_factor)$", "SVDQuant"),
)


def name_contents(keys: Collection[str]) -> str:
    """Return what a file with these tensors holds, such as "a VAE"; "" if it is not known."""
    for pattern, what in CONTENTS:
        if any(re.search(pattern, key) for key in keys):
            return what
    return ""


def refuse_quantised(keys: Collection[str], where: str) -> None:
    """Raise an OmfaError for a file whose names show that its weights are quantised."""
    for pattern, how in QUANTISED:
        found = sorted(key for key in keys if re.search(pattern, key))
        if found:
            raise OmfaError(
                f"{where} is quantised ({how}; {len(found)} tensors such as"
                f" {format_names(found[:1])}): give the weights in fp16, bf16 or fp32"
            )


def make_contents_error(keys: Collection[str], where: str, wanted: str, advice: str) -> OmfaError:
    """Return the error for a file without `wanted`: what it holds instead, and what to do."""
    if not keys:
        return OmfaError(f"{where} has no tensors; fetch or export it again")
    what = name_contents(keys)
    if what and what != wanted:
        return OmfaError(f"{where} has no {wanted}: it is {what}; {ADVICE.get(what, advice)}")
    # numbered and long lists of names have few beginnings
    starts = list(dict.fromkeys(key.split(".")[0] for key in sorted(keys)))
    return OmfaError(
        f"{where} has no {wanted} (its names begin with {format_names(starts)}); {advice}"
    )


def is_adapter(keys: Collection[str]) -> bool:
    """Return True if tensors belong to an adapter such as a LoRA, and none to a UNet."""
    pattern = re.compile("|".join(pattern for pattern, _ in ADAPTERS))
    others = [key for key in keys if not pattern.search(key)]
    return len(others) < len(keys) and name_contents(others) != "a UNet"
