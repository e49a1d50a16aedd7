"""SDXL's two text encoders, run once by transformers to fill a prompt table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.core.errors import require_modules
from omfa_jax.core.files import require_dir
from omfa_jax.weights.files import read_json
from omfa_jax.weights.prompts import EMPTY, PromptTable


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
