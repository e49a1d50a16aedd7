"""The prompt table: rows by text, the seeded table, files, and SDXL's text encoders."""

import json
import warnings

import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights.description import Description
from omfa_jax.weights.files import write_tensors
from omfa_jax.weights.prompts import PromptTable, load_prompts, save_prompts, seeded_prompts
from omfa_jax.weights.text import encode_prompts, prompt_table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import torch
    import transformers

PROMPTS = ("dress a person", "undress a person")


def test_seeded_rows_depend_on_the_text_alone():
    table = seeded_prompts(PROMPTS, 7, 16, 8, seed=3)
    assert table.prompts == (*PROMPTS, "")
    assert table.context.shape == (3, 7, 16) and table.pooled.shape == (3, 8)
    assert not table.context[-1].any() and not table.pooled[-1].any()
    alone = seeded_prompts(PROMPTS[1:], 7, 16, 8, seed=3)
    np.testing.assert_array_equal(alone.context[0], table.context[1])
    assert not np.allclose(table.context[0], table.context[1])
    assert not np.allclose(table.context[0], seeded_prompts(PROMPTS, 7, 16, 8).context[0])
    assert np.std(seeded_prompts(PROMPTS, 100, 64, 8).context[0]) == pytest.approx(1, rel=0.03)


def test_rows_come_in_the_order_asked_with_the_empty_prompt_last():
    table = seeded_prompts(PROMPTS, 2, 4, 4)
    rows = table.rows([PROMPTS[1], PROMPTS[0], PROMPTS[1]])
    np.testing.assert_array_equal(rows["context"], table.context[[1, 0, 1, 2]])
    np.testing.assert_array_equal(rows["pooled"], table.pooled[[1, 0, 1, 2]])
    with pytest.raises(OmfaError, match=r"'fly' is not in .*--prompt"):
        table.rows(["fly"])


def test_file_round_trip(tmp_path):
    table = seeded_prompts(["Ärmel, ≤ 2"], 3, 4, 5)
    save_prompts(tmp_path / "p.safetensors", table)
    back = load_prompts(tmp_path / "p.safetensors")
    assert back.prompts == table.prompts
    np.testing.assert_array_equal(back.context, table.context)
    np.testing.assert_array_equal(back.pooled, table.pooled)


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    write_tensors(path, {"other": np.zeros(3, np.float32)}, "fp32", {})
    with pytest.raises(OmfaError, match="expected tensors context and pooled"):
        load_prompts(path)
    path.write_bytes(b"\0" * 20)
    with pytest.raises(OmfaError, match="not a whole safetensors file"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("prompts", "context", "words"),
    [
        (("a",), (1, 2, 3), "must be empty"),
        (("a", ""), (3, 2, 3), "2 prompts, but context"),
        (("a", ""), (2, 3), "expected context"),
    ],
)
def test_impossible_tables_are_refused(prompts, context, words):
    with pytest.raises(OmfaError, match=words):
        PromptTable(prompts, np.zeros(context, np.float32), np.zeros((2, 3), np.float32))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A folder with two tiny CLIP encoders and tokenizers of single letters."""
    folder = tmp_path_factory.mktemp("encoders")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    for suffix, kind, width in (
        ("", transformers.CLIPTextModel, 16),
        ("_2", transformers.CLIPTextModelWithProjection, 24),
    ):
        torch.manual_seed(width)
        config = transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=12,
            projection_dim=10,
            bos_token_id=0,
            eos_token_id=1,
        )
        kind(config).save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer = folder / f"tokenizer{suffix}"
        tokenizer.mkdir()
        (tokenizer / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
        (tokenizer / "merges.txt").write_text("#version: 0.2\n")
        (tokenizer / "tokenizer_config.json").write_text('{"model_max_length": 12}')
    return folder


def test_embeddings_equal_the_pipelines(encoders):
    parts = {}
    for suffix, kind in (
        ("", transformers.CLIPTextModel),
        ("_2", transformers.CLIPTextModelWithProjection),
    ):
        parts[f"text_encoder{suffix}"] = kind.from_pretrained(encoders / f"text_encoder{suffix}")
        path = encoders / f"tokenizer{suffix}"
        parts[f"tokenizer{suffix}"] = transformers.CLIPTokenizer.from_pretrained(path)
    pipeline = diffusers.StableDiffusionXLPipeline(
        **parts, vae=None, unet=None, scheduler=None, force_zeros_for_empty_prompt=True
    )
    with torch.no_grad():
        context, empty, pooled, empty_pooled = pipeline.encode_prompt("a red hat", device="cpu")
    table = encode_prompts(encoders, ["a red hat", "a hat", "a red hat"])
    assert table.prompts == ("a red hat", "a hat", "")
    rows = table.rows(["a red hat"])
    assert rows["context"].shape == (2, 12, 40) and rows["pooled"].shape == (2, 10)
    for row, (expected, expected_pooled) in enumerate(((context, pooled), (empty, empty_pooled))):
        np.testing.assert_allclose(rows["context"][row], expected[0], atol=1e-5)
        np.testing.assert_allclose(rows["pooled"][row], expected_pooled[0], atol=1e-5)


def test_the_empty_prompt_may_be_embedded(encoders):
    index = encoders / "model_index.json"
    index.write_text('{"force_zeros_for_empty_prompt": false}')
    try:
        table = encode_prompts(encoders, [])
    finally:
        index.unlink()
    assert table.prompts == ("",) and table.context[0].any()


UNET = UNetConfig(context_dim=40, pooled_dim=10)


def described(prompts=None, unet=UNET):
    return Description(unet, VAEConfig(), None, None, prompts)


def test_the_table_comes_from_the_first_place_that_has_it(encoders, tmp_path):
    own = seeded_prompts(PROMPTS, 12, 40, 10)

    def table(source, folder, prompts, without_text=False):
        return prompt_table(source, folder, prompts, without_text=without_text)

    assert table(described(own), encoders, PROMPTS) is own
    assert table(described(own), tmp_path, []) is own and table(described(), tmp_path, []) is None
    embedded = table(described(own), encoders, ["a hat"])
    expected = encode_prompts(encoders, ["a hat"])
    assert embedded.prompts == ("a hat", "")
    np.testing.assert_array_equal(embedded.context, expected.context)
    null = table(described(own), encoders, [*PROMPTS, PROMPTS[0]], without_text=True)
    assert null.prompts == (*PROMPTS, "") and null.context.shape == (3, 77, 40)
    assert null.pooled.shape == (3, 10) and not null.context.any() and not null.pooled.any()
    with pytest.raises(OmfaError, match=r"no text encoders to embed 'a hat': .*--null-prompts"):
        table(described(own), tmp_path, ["a hat"])
    with pytest.raises(OmfaError, match="give --config or --prompt"):
        table(described(own), tmp_path, [], without_text=True)
    with pytest.raises(OmfaError, match=r"are 40 and 10 \(pooled\) wide, the UNet takes 2048 and"):
        table(described(own, UNetConfig()), encoders, PROMPTS)


def test_absent_encoders_are_named(tmp_path):
    with pytest.raises(OmfaError, match="tokenizer: expected a folder at"):
        encode_prompts(tmp_path, ["a"])
