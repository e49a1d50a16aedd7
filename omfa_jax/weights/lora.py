"""LoRAs merged into a UNet's weights, under the names of kohya's scripts, PEFT and diffusers.

A LoRA adds scale * (alpha / rank) * up @ down to a weight (arXiv 2106.09685); without an alpha the
quotient is 1. The sum is made when a weight is read, so that one at a time is in memory.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.models import UNetConfig
from omfa_jax.weights import ldm_names
from omfa_jax.weights.file_contents import is_adapter, name_contents
from omfa_jax.weights.foreign_files import is_safetensors, recognise_file
from omfa_jax.weights.lora_alphas import LoraAlphas, read_alphas
from omfa_jax.weights.tensor_files import format_names
from omfa_jax.weights.tensor_names import Component
from omfa_jax.weights.torch_tensors import LazyTensors, open_safetensors

# the files of folders that diffusers and PEFT write
FOLDER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
# one of a layer's two matrices: kohya's lora_down, PEFT's lora_A (with the adapter's name or not),
# diffusers' lora.down and, in the attention processors of old files, to_q_lora.down
MATRIX = re.compile(
    r"(.+?)(?:\.lora_|_lora\.|\.lora\.|\.lora_linear_layer\.)(down|up|A|B)(?:\.\w+)?\.weight"
)
DOWN = ("down", "A")
ALPHA = re.compile(r"(.+?)(?:\.lora)?\.alpha")
# parts for text encoders, and OneTrainer's embeddings of new words
TEXT = re.compile(r"^(?:base_model\.model\.)?(lora_te\d?_|text_encoder|te\d?\.|bundle_emb\.)")
# beginnings of a UNet's modules in such files
PREFIX = re.compile(
    r"^(?:base_model\.model\.|module\.|_orig_mod\.|unet\.|(?:model\.)?diffusion_model\.|lora_unet_)*"
)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA to merge: a file, or the folder of one, and the factor of its changes."""

    path: AnyPath
    scale: float = 1.0


@dataclass
class _Layer:
    """The keys of a layer's two matrices; the module is as the file names it."""

    module: str
    keys: dict[str, str] = field(default_factory=dict)

    def get_key(self, down: bool) -> str:
        return self.keys.get("down" if down else "up", "")


def parse_lora(text: str) -> LoraFile:
    """Return the LoRA in "FILE" or "FILE:scale"; OmfaError for a scale that is no number."""
    path, colon, tail = text.rpartition(":")
    # the colon of gs://
    if not colon or not path or tail.startswith("//") or to_path(text).exists():
        return LoraFile(to_path(text))
    try:
        scale = float(tail)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise OmfaError(f"--lora {text}: expected FILE or FILE:scale with a number such as 0.8")
    return LoraFile(to_path(path), scale)


def merge_loras(
    unet: Component, config: UNetConfig, loras: Sequence[LoraFile]
) -> tuple[Component, list[str]]:
    """Return the UNet with the LoRAs' changes added on reading, and notes on each.

    Raises OmfaError for changes that fit no layer, and for adapters of other kinds.
    """
    notes = []
    for lora in loras:
        unet, more = _merge(unet, config, lora)
        notes += more
    return unet, notes


def _merge(unet: Component, config: UNetConfig, lora: LoraFile) -> tuple[Component, list[str]]:
    tensors = _open_lora(lora.path)
    where = tensors.where
    layers, alphas, others = _sort_keys(tensors)
    text = [key for key in others if TEXT.match(key)]
    unknown = sorted(set(others) - set(text))
    if not layers and not is_adapter(tensors.shapes.keys()):
        what = name_contents(tensors.shapes.keys()) or "of an unknown kind"
        raise OmfaError(f"{where} is no LoRA (it is {what}); give another file to --lora")
    if unknown:
        raise OmfaError(
            f"{where}: {len(unknown)} tensors are of an adapter other than plain LoRA (such as"
            f" DoRA, LoHa, LoKr, or biases): {format_names(unknown)}; give a plain LoRA"
        )
    if not layers:
        raise OmfaError(f"{where} changes the text encoders only; give a LoRA of the UNet")
    places = _list_places(unet, config)
    strangers = [layer.module for name, layer in layers.items() if name not in places]
    if strangers:
        raise OmfaError(
            f"{where}: {len(strangers)} of its {len(layers)} modules are not in this UNet"
            f" ({format_names(strangers)}); give a LoRA for SDXL's UNet"
        )
    found = {places[name]: layer for name, layer in layers.items()}
    if len(found) < len(layers):
        raise OmfaError(f"{where} changes some modules twice, under two names; give another copy")
    misfits = [
        fault for key, layer in found.items() if (fault := _find_misfit(unet, key, layer, tensors))
    ]
    if misfits:
        raise OmfaError(
            f"{where}: {len(misfits)} of its {len(layers)} modules do not fit this UNet"
            f" ({format_names(misfits)}); give a LoRA for SDXL's UNet"
        )

    def read(key: str) -> np.ndarray:
        weight = unet.tensors.read(key)
        if key not in found:
            return weight
        down, up = (tensors.read(found[key].get_key(down)) for down in (True, False))
        rank = len(down)
        change = up.reshape(len(up), rank) @ down.reshape(rank, -1)
        if not np.isfinite(change).all():
            raise OmfaError(
                f"{where}: {found[key].module} contains NaN or infinity; give another copy"
            )
        factor = lora.scale * alphas.get_factor(found[key].module, rank)
        return weight + np.float32(factor) * change.reshape(weight.shape)

    ranks = sorted({tensors.shapes[layer.get_key(True)][0] for layer in layers.values()})
    notes = [
        f"merged {where} with scale {lora.scale:g}: {len(layers)} modules of rank"
        f" {', '.join(map(str, ranks))}"
    ]
    if text:
        notes.append(
            f"{where}: left out {len(text)} tensors for the text encoders; prompts are embedded"
            " without them"
        )
    merged = dataclasses.replace(unet.tensors, read=read)
    return dataclasses.replace(unet, tensors=merged), notes


def _open_lora(path: AnyPath) -> LazyTensors:
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise OmfaError(f"--lora {path}: the folder has none of {format_names(FOLDER_FILES)}")
        path = found[0]
    if not path.is_file():
        raise OmfaError(f"--lora: expected a file at {path}, found nothing; change --lora")
    if path.suffix != ".safetensors" and not is_safetensors(path):
        what, advice = recognise_file(path) or (
            "its format is unknown",
            "convert it to safetensors first",
        )
        raise OmfaError(f"--lora {path}: expected a .safetensors file, and {what}; {advice}")
    tensors = open_safetensors([path], str(path))
    unusable = tensors.faulty | {key: f"is {kind}" for key, kind in tensors.float8.items()}
    if unusable:
        key, reason = min(unusable.items())
        raise OmfaError(f"--lora {path}: {key} {reason}; give a LoRA in fp16, bf16 or fp32")
    return tensors


def _sort_keys(tensors: LazyTensors) -> tuple[dict[str, _Layer], LoraAlphas, list[str]]:
    """Return the UNet's layers by flattened module, the alphas, and all other keys."""
    layers: dict[str, _Layer] = {}
    scalars: dict[str, float] = {}
    others = []
    for key in tensors.shapes:
        matrix, alpha = MATRIX.fullmatch(key), ALPHA.fullmatch(key)
        if TEXT.match(key) or not (matrix or alpha):
            others.append(key)
        elif matrix:
            layer = layers.setdefault(flatten_module(matrix[1]), _Layer(matrix[1]))
            layer.keys["down" if matrix[2] in DOWN else "up"] = key
        elif alpha and tensors.shapes[key] in ((), (1,)):
            scalars[flatten_module(alpha[1])] = float(tensors.read(key).reshape(()))
        else:
            others.append(key)
    return layers, read_alphas(tensors, scalars, flatten_module), others


def flatten_module(name: str) -> str:
    """Return a module's name without beginning and dots, by which all forms of it are equal."""
    name = PREFIX.sub("", name).replace(".processor.", ".")
    if name.endswith(".to_out"):
        # old files leave out the number of the projection in its list
        name += ".0"
    return name.replace(".", "_")


def _list_places(unet: Component, config: UNetConfig) -> Mapping[str, str]:
    """Return the source's key of each weight by its flattened names, diffusers' and original."""
    original = ldm_names.make_unet_key_fn(config, "")
    places = {}
    for row in unet.rows:
        if row.key.endswith(".weight"):
            for name in (row.key, original(row.key)):
                places[flatten_module(name.removesuffix(".weight"))] = unet.key_fn(row.key)
    return places


def _find_misfit(unet: Component, key: str, layer: _Layer, tensors: LazyTensors) -> str:
    """Return what is wrong with a layer's two matrices, "" if they fit the weight at `key`."""
    lacking = [name for name in ("down", "up") if name not in layer.keys]
    if lacking:
        return f"{layer.module} lacks its {lacking[0]} matrix"
    down, up = (tensors.shapes[layer.get_key(down)] for down in (True, False))
    weight = unet.tensors.shapes.get(key)
    if not weight:
        # a weight that the UNet lacks is reported with all that it lacks
        return ""
    fits = (
        min(len(down), len(up)) >= 2
        and math.prod(up) == weight[0] * down[0]
        and up[:2] == (weight[0], down[0])
        and math.prod(down[1:]) == math.prod(weight[1:])
    )
    return "" if fits else f"{layer.module} of {down} and {up} for a weight of {weight}"
