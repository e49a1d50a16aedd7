"""SDXL's two text encoders, run once by transformers to fill a prompt table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.core.files import require_dir
from omfa_jax.weights.description import Description
from omfa_jax.weights.files import read_json
from omfa_jax.weights.prompts import EMPTY, PromptTable, null_prompts

# of SDXL's tokenizers
TOKENS = 77


def encode_prompts(folder: Path, prompts: Sequence[str]) -> PromptTable:
    """Return the embeddings of `prompts` and of the empty prompt by a folder's text encoders.

    As in SDXL (arXiv 2307.01952): the tokens' states are those before the last layer of both
    encoders, side by side; the pooled vector is the second's projection. The empty prompt is
    zeros unless the folder's model_index.json turns `force_zeros_for_empty_prompt` off, because
    SDXL was trained so. Needs torch and transformers.
    """
    require_modules("embedding prompts", "torch", "torch", "transformers")
    import torch
    import transformers

    folder = Path(folder)
    named = [prompt for prompt in dict.fromkeys(prompts) if prompt != EMPTY]
    texts = [*named, EMPTY]
    contexts, pooled = [], None
    with torch.no_grad():
        for suffix, kind in (
            ("", transformers.CLIPTextModel),
            ("_2", transformers.CLIPTextModelWithProjection),
        ):
            tokens = _tokens(folder / f"tokenizer{suffix}", texts)
            path = require_dir(folder / f"text_encoder{suffix}", "text encoder", "the source")
            encoder = kind.from_pretrained(path, torch_dtype=torch.float32).eval()
            output = encoder(tokens, output_hidden_states=True)
            contexts.append(output.hidden_states[-2].numpy())
            pooled = output[0].numpy()
    context = np.concatenate(contexts, axis=-1)
    index = folder / "model_index.json"
    fields = read_json(index) if index.is_file() else {}
    if fields.get("force_zeros_for_empty_prompt", True):
        context[-1], pooled[-1] = 0.0, 0.0
    return PromptTable(tuple(texts), context, pooled)


def prompt_table(
    source: Description,
    encoders: Path,
    prompts: Sequence[str],
    *,
    without_text: bool,
) -> PromptTable | None:
    """Return a table that has `prompts`; without prompts the source's own, or None.

    Zeros for every prompt if `without_text` asks for them; else the source's table, if it has them
    all; else what the text encoders in the folder `encoders` say. Where there are none, or their
    embeddings do not fit the UNet, an OmfaError says what to do.
    """
    config, own = source.unet_config, source.prompts
    if without_text and not prompts:
        raise OmfaError("--null-prompts needs the prompts' texts: give --config or --prompt")
    if not prompts:
        table = own
    elif without_text:
        table = null_prompts(prompts, TOKENS, config.context_dim, config.pooled_dim)
    elif own is not None and set(prompts) <= set(own.prompts):
        table = own
    elif (encoders / "text_encoder").is_dir():
        table = encode_prompts(encoders, prompts)
    else:
        raise OmfaError(
            f"{encoders} has no text encoders to embed {', '.join(map(repr, prompts))}: give a"
            " folder that has text_encoder, text_encoder_2 and their tokenizers to --text-encoders,"
            " or choose --null-prompts to train without text"
        )
    if table is not None:
        came = (table.context.shape[-1], table.pooled.shape[-1])
        if came != (config.context_dim, config.pooled_dim):
            raise OmfaError(
                f"the prompts' embeddings are {came[0]} and {came[1]} (pooled) wide, the UNet takes"
                f" {config.context_dim} and {config.pooled_dim}; give SDXL's two text encoders"
            )
    return table


def _tokens(folder: Path, texts: Sequence[str]) -> Any:
    import transformers

    path = require_dir(folder, "tokenizer", "the source")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(path)
    padded = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return padded.input_ids
