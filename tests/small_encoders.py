"""SDXL's two text encoders and their tokenizers in diffusers' folders, at next to no size."""

import json
import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers

# what a UNet that fits the encoders takes
CONTEXT_DIM, POOLED_DIM = 40, 10


def write_encoders(folder: Path, tokens: int = 12) -> Path:
    """Write tiny CLIP encoders with random weights, and tokenizers of single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    for suffix, kind, width in (
        ("", transformers.CLIPTextModel, 16),
        ("_2", transformers.CLIPTextModelWithProjection, CONTEXT_DIM - 16),
    ):
        torch.manual_seed(width)
        config = transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=tokens,
            projection_dim=POOLED_DIM,
            bos_token_id=0,
            eos_token_id=1,
        )
        kind(config).save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer = folder / f"tokenizer{suffix}"
        tokenizer.mkdir()
        (tokenizer / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
        (tokenizer / "merges.txt").write_text("#version: 0.2\n")
        (tokenizer / "tokenizer_config.json").write_text(f'{{"model_max_length": {tokens}}}')
    return folder
