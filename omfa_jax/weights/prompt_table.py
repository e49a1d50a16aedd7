"""The prompt table: text embeddings of every task's prompt and of the empty prompt."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath
from omfa_jax.weights.tensor_files import read_tensors, write_tensors

EMPTY_PROMPT = ""


@dataclass(frozen=True)
class PromptTable:
    """Text embeddings for a list of prompts, computed once and stored next to the weights.

    Row i belongs to `prompts[i]`. The last prompt is empty and serves as the null condition in
    classifier-free guidance. `context` (n, l, d) has one vector per token, `pooled` (n, p) one per
    prompt; other shapes are an OmfaError.
    """

    prompts: tuple[str, ...]
    context: Float[np.ndarray, "..."]
    pooled: Float[np.ndarray, "..."]

    def __post_init__(self) -> None:
        rows = len(self.prompts)
        if rows == 0 or self.prompts[-1] != EMPTY_PROMPT:
            raise OmfaError(f"prompt table: the last prompt must be empty, got {self.prompts}")
        if self.context.ndim != 3 or self.pooled.ndim != 2:
            raise OmfaError(
                "prompt table: expected context (n, l, d) and pooled (n, p), got "
                f"{self.context.shape} and {self.pooled.shape}"
            )
        if not rows == len(self.context) == len(self.pooled):
            raise OmfaError(
                f"prompt table: {rows} prompts, but context {self.context.shape} and "
                f"pooled {self.pooled.shape}"
            )
        if not (np.isfinite(self.context).all() and np.isfinite(self.pooled).all()):
            raise OmfaError(
                "prompt table: embeddings contain NaN or infinity; fetch the text encoders again"
            )

    def select_rows(self, prompts: Sequence[str]) -> dict[str, Float[np.ndarray, "n ..."]]:
        """Return `context` and `pooled` for `prompts` in this order, then the empty prompt.

        Raises OmfaError, listing the known prompts, for one that is not in the table.
        """
        wanted = [*prompts, EMPTY_PROMPT]
        for prompt in wanted:
            if prompt not in self.prompts:
                raise OmfaError(
                    f"prompt {prompt!r} is not in the weights' prompt table {list(self.prompts)}; "
                    "import the weights again (convert_weights.py import --config or --prompt)"
                )
        # in the order of the tasks, so that a task's index in the config is its row
        index = [self.prompts.index(prompt) for prompt in wanted]
        return {"context": self.context[index], "pooled": self.pooled[index]}


def merge_tables(first: PromptTable, second: PromptTable) -> PromptTable:
    """Return a table with the prompts of both; rows of the first take precedence.

    Raises OmfaError if their embeddings have different shapes (from different text encoders).
    """
    shapes = [(table.context.shape[1:], table.pooled.shape[1:]) for table in (first, second)]
    if shapes[0] != shapes[1]:
        raise OmfaError(
            f"prompt tables with embeddings of shape {shapes[0]} and {shapes[1]} cannot be merged;"
            " embed all prompts with the same text encoders"
        )
    # the second table's own empty prompt is in the first already
    new = [row for row, prompt in enumerate(second.prompts) if prompt not in first.prompts]
    # the empty prompt must stay last
    named = range(len(first.prompts) - 1)
    return PromptTable(
        (
            *(first.prompts[row] for row in named),
            *(second.prompts[row] for row in new),
            EMPTY_PROMPT,
        ),
        np.concatenate([first.context[:-1], second.context[new], first.context[-1:]]),
        np.concatenate([first.pooled[:-1], second.pooled[new], first.pooled[-1:]]),
    )


def project_table(table: PromptTable, dim: int, pooled_dim: int, seed: int = 0) -> PromptTable:
    """Return the table with embeddings projected to other widths, for a UNet trained from scratch.

    The projection is a fixed Gaussian matrix: norms and angles are roughly preserved
    (Johnson-Lindenstrauss), the empty prompt's zeros stay zeros, and embeddings that already have
    the width are unchanged.
    """

    def carried(rows: Float[np.ndarray, "... d"], width: int) -> Float[np.ndarray, "... e"]:
        if rows.shape[-1] == width:
            return rows
        # the widths are part of the seed: every run and host must get the same matrix
        draw = np.random.default_rng([seed, rows.shape[-1], width]).standard_normal
        matrix = draw((rows.shape[-1], width), np.float32) / np.sqrt(np.float32(rows.shape[-1]))
        return rows @ matrix

    return PromptTable(
        table.prompts, carried(table.context, dim), carried(table.pooled, pooled_dim)
    )


def make_seeded_prompts(
    prompts: Sequence[str], tokens: int, dim: int, pooled_dim: int, seed: int = 0
) -> PromptTable:
    """Return fixed Gaussian embeddings, for models without a text encoder.

    A prompt's row depends only on its text and `seed`, not on the other prompts. The empty prompt
    is appended if absent; it is all zeros.
    """
    named = [prompt for prompt in prompts if prompt != EMPTY_PROMPT]
    context = np.zeros((len(named) + 1, tokens, dim), np.float32)
    pooled = np.zeros((len(named) + 1, pooled_dim), np.float32)
    for row, prompt in enumerate(named):
        # crc32 and not hash(), which differs between processes
        rng = np.random.default_rng([seed, zlib.crc32(prompt.encode())])
        context[row] = rng.standard_normal((tokens, dim), np.float32)
        pooled[row] = rng.standard_normal(pooled_dim, np.float32)
    return PromptTable((*named, EMPTY_PROMPT), context, pooled)


def make_null_prompts(
    prompts: Sequence[str], tokens: int, dim: int, pooled_dim: int
) -> PromptTable:
    """Return a table in which every prompt is SDXL's empty prompt, zeros, to train without text."""
    named = [prompt for prompt in dict.fromkeys(prompts) if prompt != EMPTY_PROMPT]
    rows = len(named) + 1
    context, pooled = np.zeros((rows, tokens, dim)), np.zeros((rows, pooled_dim))
    return PromptTable(
        (*named, EMPTY_PROMPT), context.astype(np.float32), pooled.astype(np.float32)
    )


def save_prompts(path: Path, table: PromptTable) -> None:
    """Write the table as a float32 safetensors file, with the prompts' texts in its metadata."""
    tensors = {
        "context": np.ascontiguousarray(table.context),
        "pooled": np.ascontiguousarray(table.pooled),
    }
    write_tensors(path, tensors, "fp32", {"prompts": json.dumps(table.prompts)})


def load_prompts(path: AnyPath) -> PromptTable:
    """Return the table in a file written by `save_prompts`; OmfaError for any other file."""
    tensors, metadata = read_tensors(path)
    if set(tensors) != {"context", "pooled"} or "prompts" not in metadata:
        raise OmfaError(
            f"{path}: expected tensors context and pooled and metadata prompts, got "
            f"{sorted(tensors)} and {sorted(metadata)}; import the weights again"
        )
    try:
        prompts = parse_json(metadata["prompts"])
    except ValueError:
        prompts = None
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise OmfaError(
            f"{path}: expected its prompts as a JSON list of texts, got"
            f" {metadata['prompts'][:60]!r}; import the weights again"
        )
    return PromptTable(tuple(prompts), tensors["context"], tensors["pooled"])
