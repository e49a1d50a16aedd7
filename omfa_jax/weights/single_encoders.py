"""SDXL's two text encoders inside a single file, as models of transformers.

`conditioner.embedders.0` is CLIP-L under Hugging Face's names, `conditioner.embedders.1` is
OpenCLIP's bigG under its own, where one tensor holds the projections of queries, keys and values.
Files hold no tokenizer.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.weights.network_source import describe_float8
from omfa_jax.weights.single_file import open_single_file
from omfa_jax.weights.tensor_files import format_names
from omfa_jax.weights.torch_tensors import LazyTensors

PREFIXES = ("conditioner.embedders.0.", "conditioner.embedders.1.")
HF, OPEN_CLIP = "transformer.", "model."
# tensors that are no weights of the encoders
BUFFERS = re.compile(r"(.+\.)?(position_ids|logit_scale|attn_mask)")
# channels per attention head of both encoders
HEAD_WIDTH = 64

# OpenCLIP's names outside the layers and in them -> Hugging Face's
OUTER = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


@dataclass(frozen=True)
class EncoderState:
    """One encoder's float32 tensors under Hugging Face's names."""

    tensors: dict[str, np.ndarray]
    is_open_clip: bool

    @property
    def positions(self) -> int:
        """The number of tokens of a prompt; 0 without its tensor."""
        return len(self.tensors.get("text_model.embeddings.position_embedding.weight", ()))


def has_encoders(keys: Collection[str]) -> bool:
    """Return True if both of SDXL's text encoders are among a file's tensors."""
    return all(any(key.startswith(prefix) for key in keys) for prefix in PREFIXES)


def read_encoders(path: AnyPath, *, allow_fp8: bool = False) -> list[EncoderState]:
    """Return the two encoders in a single file; OmfaError if they are absent or incomplete."""
    tensors = open_single_file(path, "--text-encoders").tensors
    if not has_encoders(tensors.shapes):
        raise OmfaError(
            f"{path} does not hold SDXL's two text encoders (no {' and '.join(PREFIXES)}): give"
            " --text-encoders a file or folder that does, or train without text with --null-prompts"
        )
    ours = {key for key in tensors.shapes if key.startswith(PREFIXES) and not _is_buffer(key)}
    describe_float8(tensors, ours, allow_fp8=allow_fp8)
    if unusable := sorted(ours & tensors.faulty.keys()):
        raise OmfaError(
            f"{path}: {len(unusable)} tensors of the text encoders are not floating point"
            f" ({format_names(unusable)}); give them in fp16, bf16 or fp32"
        )
    return [_read_encoder(tensors, prefix, ours) for prefix in PREFIXES]


def _is_buffer(key: str) -> bool:
    return BUFFERS.fullmatch(key) is not None


def _read_encoder(tensors: LazyTensors, prefix: str, keys: set[str]) -> EncoderState:
    names = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    is_open_clip = any(name.startswith(OPEN_CLIP) for name in names)
    inner = OPEN_CLIP if is_open_clip else HF
    state: dict[str, np.ndarray] = {}
    for name in sorted(names):
        tensor = tensors.read(prefix + name)
        if is_open_clip:
            state |= dict(_convert(name.removeprefix(inner), tensor))
        else:
            state[name.removeprefix(inner)] = tensor
    return EncoderState(state, is_open_clip)


def _convert(name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a tensor of OpenCLIP's under Hugging Face's names; an unknown name is unchanged."""
    match = LAYER.fullmatch(name)
    if name == "text_projection":
        # a matrix of (in, out), not the weight of a linear layer
        yield OUTER[name], np.ascontiguousarray(tensor.T)
    elif match is None:
        yield OUTER.get(name, name), tensor
    elif match[2] == "attn.in_proj" and len(tensor) % 3 == 0:
        for letter, part in zip("qkv", np.split(tensor, 3), strict=True):
            yield f"text_model.encoder.layers.{match[1]}.self_attn.{letter}_proj.{match[3]}", part
    else:
        module = INNER.get(match[2], match[2])
        yield f"text_model.encoder.layers.{match[1]}.{module}.{match[3]}", tensor


def build_encoder(state: EncoderState, which: int, eos_token: int, where: AnyPath) -> Any:
    """Return the transformers model with these tensors, the first or the second (`which` 0 or 1).

    Widths come from the tensors; heads of 64 channels and the activation are the encoder's. Raises
    OmfaError for tensors that are missing, misshapen or not its own.
    """
    import torch
    import transformers

    shapes = {name: tensor.shape for name, tensor in state.tensors.items()}
    kind = (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection)[which]
    try:
        rows, width = shapes["text_model.embeddings.token_embedding.weight"]
        layer = "text_model.encoder.layers.{}.mlp.fc1.weight"
        config = transformers.CLIPTextConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=shapes[layer.format(0)][0],
            num_hidden_layers=sum(name.endswith("mlp.fc1.weight") for name in shapes),
            num_attention_heads=width // HEAD_WIDTH,
            max_position_embeddings=state.positions,
            projection_dim=shapes.get("text_projection.weight", (width,))[0],
            hidden_act="gelu" if state.is_open_clip else "quick_gelu",
            eos_token_id=eos_token,
        )
        model = kind(config)
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # transformers raises several types for impossible configs
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OmfaError(
            f"{where}: its text encoder {which + 1} is not SDXL's ({reason}); give another file"
        ) from None
    # transformers 5.6 and newer leave out the inner module's name in the first encoder
    drop = "" if any(name.startswith("text_model.") for name in wanted) else "text_model."
    came = {name.removeprefix(drop): tensor for name, tensor in state.tensors.items()}
    wanted = {name: shape for name, shape in wanted.items() if not _is_buffer(name)}
    faults = _list_faults(wanted, {name: tensor.shape for name, tensor in came.items()})
    if faults:
        raise OmfaError(
            f"{where}: the tensors of its text encoder {which + 1} are not SDXL's:"
            f" {'; '.join(faults)}; give another file"
        )
    arrays = {name: torch.from_numpy(np.ascontiguousarray(came[name])) for name in wanted}
    model.load_state_dict(arrays, strict=False)
    return model.eval()


def _list_faults(wanted: dict[str, Any], came: dict[str, Any]) -> list[str]:
    kinds = {
        "missing": wanted.keys() - came.keys(),
        "unexpected": came.keys() - wanted.keys(),
        "misshapen": {n for n in wanted if n in came and tuple(came[n]) != wanted[n]},
    }
    return [
        f"{len(names)} {word} ({format_names(sorted(names))})"
        for word, names in kinds.items()
        if names
    ]
