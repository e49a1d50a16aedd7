"""The alphas of a LoRA, which divided by the rank scale its changes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import to_path
from omfa_jax.weights.tensor_files import read_json
from omfa_jax.weights.torch_tensors import LazyTensors

# where diffusers keeps PEFT's config in a file's metadata, and PEFT beside its files
METADATA_KEY, CONFIG_FILE = "lora_adapter_metadata", "adapter_config.json"


@dataclass(frozen=True)
class LoraAlphas:
    """The alpha of every module: from tensors (kohya), or from PEFT's config.

    `by_module` has flattened names; `pattern` those of PEFT's alpha_pattern, which may be the last
    part of a module's.
    """

    by_module: Mapping[str, float]
    default: float | None
    pattern: Mapping[str, float]
    rank_stabilised: bool
    flatten: Callable[[str], str]

    def get_factor(self, module: str, rank: int) -> float:
        """Return alpha / rank, or alpha / sqrt(rank) for a rank-stabilised LoRA; 1 without alpha.

        Rank stabilisation: arXiv 2312.03732.
        """
        name = self.flatten(module)
        alpha = self.by_module.get(name, self.default)
        for part, value in self.pattern.items():
            ending = self.flatten(part)
            if name == ending or name.endswith(f"_{ending}"):
                alpha = value
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_alphas(
    tensors: LazyTensors, by_module: Mapping[str, float], flatten: Callable[[str], str]
) -> LoraAlphas:
    """Return the alphas of a LoRA; `by_module` are those in its own tensors.

    PEFT's config is read from the file's metadata or from adapter_config.json beside the file.
    """
    fields = _read_config(tensors)
    alphas = LoraAlphas(
        by_module,
        fields.get("lora_alpha"),
        fields.get("alpha_pattern") or {},
        bool(fields.get("use_rslora")),
        flatten,
    )
    numbers = [*alphas.by_module.values(), *alphas.pattern.values(), alphas.default or 0]
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise OmfaError(f"{tensors.where}: an alpha is not a finite number; give another copy")
    return alphas


def _read_config(tensors: LazyTensors) -> dict[str, Any]:
    text = tensors.metadata.get(METADATA_KEY)
    beside = to_path(tensors.where).with_name(CONFIG_FILE)
    if text is not None:
        try:
            fields = parse_json(text)
            # the UNet's fields, among those of the text encoders
            own = {k.removeprefix("unet."): v for k, v in fields.items() if k.startswith("unet.")}
        except (ValueError, AttributeError, RecursionError):
            raise OmfaError(
                f"{tensors.where}: its metadata {METADATA_KEY} is not a JSON object; give another"
                " copy"
            ) from None
    elif beside.is_file():
        own = read_json(beside)
    else:
        return {}
    pattern = own.get("alpha_pattern") or {}
    if own.get("use_dora") or not isinstance(pattern, dict):
        raise OmfaError(f"{tensors.where}: its PEFT config is of another adapter than plain LoRA")
    return own
