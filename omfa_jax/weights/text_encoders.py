"""Prompt tables made by running SDXL's two text encoders once, with transformers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath, local_copy_of_folder, to_path
from omfa_jax.weights.model_description import ModelDescription
from omfa_jax.weights.prompt_table import EMPTY_PROMPT, PromptTable, make_null_prompts
from omfa_jax.weights.single_encoders import build_encoder, read_encoders
from omfa_jax.weights.tensor_files import format_names, read_json

# sequence length of SDXL's tokenizers
TEXT_TOKENS = 77
# the words with which SDXL's two tokenizers fill prompts up
PADDING = ("<|endoftext|>", "!")


# a tokenizer's output, and the encoder to run on it
Pairs = Iterator[tuple[Any, Any]]


def encode_prompts(folder: AnyPath, prompts: Sequence[str]) -> PromptTable:
    """Return the embeddings of `prompts` and of the empty prompt by a folder's text encoders.

    As in SDXL (arXiv 2307.01952), the token embeddings are the penultimate hidden states of both
    encoders, concatenated, and the pooled embedding is the second's projection. The empty prompt is
    zeros, as SDXL was trained, unless the folder's model_index.json turns
    `force_zeros_for_empty_prompt` off. Needs torch and transformers.
    """
    require_modules("embedding prompts", "torch", "torch", "transformers")
    import transformers

    folder = to_path(folder)
    texts = _list_texts(prompts)

    def open_pairs() -> Pairs:
        for suffix, kind in (
            ("", transformers.CLIPTextModel),
            ("_2", transformers.CLIPTextModelWithProjection),
        ):
            tokens = _tokenize(_load_tokenizer(folder / f"tokenizer{suffix}"), texts)
            yield tokens, _load_encoder(kind, folder / f"text_encoder{suffix}")

    index = folder / "model_index.json"
    fields = read_json(index) if index.is_file() else {}
    zeros = fields.get("force_zeros_for_empty_prompt", True)
    return _embed(open_pairs(), texts, folder, zeros_for_empty=zeros)


def encode_prompts_of_file(
    path: AnyPath, tokenizer: AnyPath | None, prompts: Sequence[str], *, allow_fp8: bool = False
) -> PromptTable:
    """Return the embeddings by the text encoders inside a single file, as `encode_prompts` does.

    `tokenizer` is a folder with vocab.json and merges.txt, or one with the folders tokenizer and
    tokenizer_2. The empty prompt is zeros.
    """
    require_modules("embedding prompts", "torch", "torch", "transformers")
    path, texts = to_path(path), _list_texts(prompts)
    states = read_encoders(path, allow_fp8=allow_fp8)
    if tokenizer is None:
        raise OmfaError(
            f"{path} holds text encoders but no tokenizer: give --tokenizer a folder with CLIP's"
            " vocab.json and merges.txt (those of SDXL or openai/clip-vit-large-patch14), or train"
            " without text with --null-prompts"
        )
    folders = [tokenizer / "tokenizer", tokenizer / "tokenizer_2"]
    # one vocabulary is enough for both
    padding: Sequence[str | None] = (None, None)
    if not all(folder.is_dir() for folder in folders):
        folders, padding = [tokenizer] * 2, PADDING

    def open_pairs() -> Pairs:
        for which, state in enumerate(states):
            words = _load_tokenizer(folders[which], padding[which])
            tokens = _tokenize(words, texts, state.positions)
            encoder = build_encoder(state, which, words.eos_token_id, path)
            if int(tokens.max()) >= encoder.config.vocab_size:
                raise OmfaError(
                    f"{folders[which]}: the tokenizer has more words than {path}'s text encoder"
                    f" {which + 1} ({encoder.config.vocab_size}); give CLIP's to --tokenizer"
                )
            yield tokens, encoder

    return _embed(open_pairs(), texts, path, zeros_for_empty=True)


def _list_texts(prompts: Sequence[str]) -> list[str]:
    return [*(prompt for prompt in dict.fromkeys(prompts) if prompt != EMPTY_PROMPT), EMPTY_PROMPT]


def _embed(
    pairs: Pairs, texts: Sequence[str], where: AnyPath, *, zeros_for_empty: bool
) -> PromptTable:
    import torch

    contexts, pooled = [], None
    with torch.no_grad():
        for tokens, encoder in pairs:
            output = encoder(tokens, output_hidden_states=True)
            contexts.append(output.hidden_states[-2].numpy())
            # the second encoder comes last; its first output is the projection
            pooled = output[0].numpy()
    lengths = [states.shape[1] for states in contexts]
    if lengths[0] != lengths[1]:
        raise OmfaError(
            f"{where}: its tokenizers give {lengths[0]} and {lengths[1]} tokens per prompt,"
            f" expected {TEXT_TOKENS} from both: use SDXL's two tokenizers"
        )
    context = np.concatenate(contexts, axis=-1)
    assert pooled is not None
    if zeros_for_empty:
        context[-1], pooled[-1] = 0.0, 0.0
    return PromptTable(tuple(texts), context, pooled)


def make_prompt_table(
    source: ModelDescription,
    encoders: AnyPath,
    prompts: Sequence[str],
    *,
    without_text: bool,
    own_first: bool = True,
    tokenizer: AnyPath | None = None,
    allow_fp8: bool = False,
) -> PromptTable | None:
    """Return a table with `prompts`; without prompts the source's own, or None.

    With `without_text` every prompt is zeros. Otherwise it is the source's table, if that has all
    prompts and `own_first` is True, or else the output of the text encoders in the folder or file
    `encoders`; those of a file need a `tokenizer`. Raises OmfaError if there are no encoders, or if
    the embeddings' widths do not match the UNet.
    """
    config, own = source.unet_config, source.prompts
    if without_text and not prompts:
        raise OmfaError("--null-prompts needs the texts of the prompts: give --config or --prompt")
    if not prompts:
        table = own
    elif without_text:
        table = make_null_prompts(prompts, TEXT_TOKENS, config.context_dim, config.pooled_dim)
    elif own_first and own is not None and set(prompts) <= set(own.prompts):
        table = own
    elif (encoders / "text_encoder").is_dir():
        table = encode_prompts(encoders, prompts)
    elif encoders.is_file():
        table = encode_prompts_of_file(encoders, tokenizer, prompts, allow_fp8=allow_fp8)
    else:
        raise OmfaError(
            f"{encoders} has no text encoders to embed {', '.join(map(repr, prompts))}: give"
            " --text-encoders a folder with text_encoder, text_encoder_2 and their tokenizers, or"
            " train without text with --null-prompts"
        )
    if table is not None:
        came = (table.context.shape[-1], table.pooled.shape[-1])
        if came != (config.context_dim, config.pooled_dim):
            raise OmfaError(
                f"the prompts' embeddings have widths {came[0]} and {came[1]} (pooled), the UNet"
                f" needs {config.context_dim} and {config.pooled_dim}; use SDXL's two text encoders"
            )
    return table


def _load_encoder(kind: Any, folder: AnyPath) -> Any:
    """Return a text encoder in float32; OmfaError if a tensor is missing or misshapen.

    transformers would initialize it at random with only a warning.
    """
    import torch

    path = require_any_dir(folder, "text encoder", "the source")
    files = [file.name for file in path.iterdir() if file.suffix in (".safetensors", ".bin")]
    # half precision only where there is nothing else
    halves = (v for v in ("fp16", "bf16") if files and all(f".{v}." in name for name in files))
    try:
        variant = next(halves, None)
        # those of other frameworks and dtypes are as large again
        ends = (f"*.{variant}.*",) if variant else ("*.safetensors", "*.bin", "*.index.json")
        with local_copy_of_folder(path, "config.json", *ends) as local:
            encoder, info = kind.from_pretrained(
                local, torch_dtype=torch.float32, variant=variant, output_loading_info=True
            )
    # transformers raises many exception types for damaged folders
    except Exception as error:
        raise _make_unreadable_error("text encoder", path, error) from None
    faults = [
        f"{len(keys)} {word} ({format_names(sorted(map(str, keys)))})"
        for word, name in (("missing", "missing_keys"), ("misshapen", "mismatched_keys"))
        if (keys := [key for key in info[name] if "position_ids" not in str(key)])
    ]
    if faults:
        raise OmfaError(
            f"{path}: the text encoder's weights do not match its config: {'; '.join(faults)}"
        )
    return encoder.eval()


def _make_unreadable_error(what: str, path: AnyPath, error: Exception) -> OmfaError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[0][:200]
    return OmfaError(f"{path}: the {what} cannot be read ({reason}); fetch the folder again")


def _load_tokenizer(folder: AnyPath, pad_token: str | None = None) -> Any:
    """Return CLIP's tokenizer in a folder; `pad_token` replaces the word that fills prompts up."""
    import transformers

    path = require_any_dir(folder, "tokenizer", "the source")
    try:
        changes: dict[str, Any] = {} if pad_token is None else {"pad_token": pad_token}
        with local_copy_of_folder(path, "*.json", "*.txt") as local:
            return transformers.CLIPTokenizer.from_pretrained(local, **changes)
    except Exception as error:
        raise _make_unreadable_error("tokenizer", path, error) from None


def _tokenize(tokenizer: Any, texts: Sequence[str], longest: int | None = None) -> Any:
    """Return token ids (texts, length): the tokenizer's own length, or `longest` if given."""
    padded = tokenizer(
        list(texts),
        padding="max_length",
        max_length=longest or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return padded.input_ids
