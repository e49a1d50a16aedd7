"""The prompt table: rows by text, the seeded table, files, and SDXL's text encoders."""

import shutil
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_encoders import write_encoders

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights.model_description import ModelDescription
from omfa_jax.weights.prompt_table import (
    PromptTable,
    load_prompts,
    make_seeded_prompts,
    project_table,
    save_prompts,
)
from omfa_jax.weights.tensor_files import write_tensors
from omfa_jax.weights.text_encoders import encode_prompts, make_prompt_table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import torch
    import transformers

PROMPTS = ("dress a person", "undress a person")


def test_seeded_rows_depend_on_the_text_alone():
    table = make_seeded_prompts(PROMPTS, 7, 16, 8, seed=3)
    assert table.prompts == (*PROMPTS, "")
    assert table.context.shape == (3, 7, 16) and table.pooled.shape == (3, 8)
    assert not table.context[-1].any() and not table.pooled[-1].any()
    alone = make_seeded_prompts(PROMPTS[1:], 7, 16, 8, seed=3)
    np.testing.assert_array_equal(alone.context[0], table.context[1])
    assert not np.allclose(table.context[0], table.context[1])
    assert not np.allclose(table.context[0], make_seeded_prompts(PROMPTS, 7, 16, 8).context[0])
    assert np.std(make_seeded_prompts(PROMPTS, 100, 64, 8).context[0]) == pytest.approx(1, rel=0.03)


def test_rows_come_in_the_order_asked_with_the_empty_prompt_last():
    table = make_seeded_prompts(PROMPTS, 2, 4, 4)
    rows = table.select_rows([PROMPTS[1], PROMPTS[0], PROMPTS[1]])
    np.testing.assert_array_equal(rows["context"], table.context[[1, 0, 1, 2]])
    np.testing.assert_array_equal(rows["pooled"], table.pooled[[1, 0, 1, 2]])
    with pytest.raises(OmfaError, match=r"'fly' is not in .*--prompt"):
        table.select_rows(["fly"])


def test_other_widths_keep_sizes_and_angles():
    table = make_seeded_prompts(["on", "off"], 3, 2048, 64)
    assert project_table(table, 2048, 64).context is table.context
    narrow = project_table(table, 512, 32)
    assert (narrow.context.shape, narrow.pooled.shape) == ((3, 3, 512), (3, 32))
    assert not narrow.context[-1].any() and not narrow.pooled[-1].any()

    def cosines(rows):
        rows = rows[:2].reshape(6, -1)
        rows = rows + rows[:1]  # so that some angles are small
        return (rows @ rows.T) / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)

    assert np.sqrt((narrow.context[:2] ** 2).mean()) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(cosines(narrow.context), cosines(table.context), atol=0.15)
    np.testing.assert_array_equal(project_table(table, 512, 32).pooled, narrow.pooled)


def test_file_round_trip(tmp_path):
    table = make_seeded_prompts(["Ärmel, ≤ 2"], 3, 4, 5)
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
    with pytest.raises(OmfaError, match="not a complete safetensors file"):
        load_prompts(path)


@pytest.mark.parametrize("prompts", ["a shirt", "[" * 100_000, "3", '[["a"], ""]', '{"": 1}'])
def test_prompts_that_are_no_list_of_texts_are_refused(tmp_path, prompts):
    tensors = {"context": np.zeros((1, 2, 3), np.float32), "pooled": np.zeros((1, 4), np.float32)}
    write_tensors(tmp_path / "p.safetensors", tensors, "fp32", {"prompts": prompts})
    with pytest.raises(OmfaError, match="expected its prompts as a JSON list of"):
        load_prompts(tmp_path / "p.safetensors")


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
    return write_encoders(tmp_path_factory.mktemp("encoders"))


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
    rows = table.select_rows(["a red hat"])
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
    return ModelDescription(unet, VAEConfig(), None, None, prompts)


def test_the_table_comes_from_the_first_place_that_has_it(encoders, tmp_path):
    own = make_seeded_prompts(PROMPTS, 12, 40, 10)

    def table(source, folder, prompts, without_text=False):
        return make_prompt_table(source, folder, prompts, without_text=without_text)

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
    with pytest.raises(OmfaError, match=r"widths 40 and 10 \(pooled\), the UNet needs 2048 and"):
        table(described(own, UNetConfig()), encoders, PROMPTS)


def test_absent_encoders_are_named(tmp_path):
    with pytest.raises(OmfaError, match="tokenizer: expected a folder at"):
        encode_prompts(tmp_path, ["a"])


def damaged(encoders, folder, name, change):
    """Return a copy of the encoders' folder in which one encoder's tensors were changed."""
    copy = shutil.copytree(encoders, folder / name)
    path = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return copy


def test_encoders_with_a_fault_are_refused(encoders, tmp_path):
    names = load_file(encoders / "text_encoder" / "model.safetensors")
    key = next(name for name in names if name.endswith("layers.0.mlp.fc1.weight"))
    lacking = damaged(encoders, tmp_path, "lacking", lambda t: t.pop(key))
    with pytest.raises(
        OmfaError, match=r"text_encoder: .* do not match its config: 1 missing .*fc1.weight"
    ):
        encode_prompts(lacking, PROMPTS)
    broken = damaged(encoders, tmp_path, "broken", lambda t: t[key].fill(np.nan))
    with pytest.raises(OmfaError, match="NaN or infinity; fetch the text encoders again"):
        encode_prompts(broken, PROMPTS)
    cut = shutil.copytree(encoders, tmp_path / "cut")
    path = cut / "text_encoder_2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OmfaError, match="text_encoder_2: the text encoder cannot be read"):
        encode_prompts(cut, PROMPTS)
    (cut / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(OmfaError, match=r"tokenizer: the tokenizer cannot be read|make .* tokens"):
        encode_prompts(cut, PROMPTS)
    uneven = shutil.copytree(encoders, tmp_path / "uneven")
    (uneven / "tokenizer_2/tokenizer_config.json").write_text('{"model_max_length": 9}')
    with pytest.raises(OmfaError, match="give 12 and 9 tokens"):
        encode_prompts(uneven, PROMPTS)


def test_half_precision_encoders_are_read_where_nothing_else_is(encoders, tmp_path):
    halves = shutil.copytree(encoders, tmp_path / "halves")
    for name in ("text_encoder", "text_encoder_2"):
        path = halves / name / "model.safetensors"
        half = {k: t.astype(np.float16) for k, t in load_file(path).items()}
        save_file(half, path.with_name("model.fp16.safetensors"), {"format": "pt"})
        path.unlink()
    came, whole = (encode_prompts(folder, ["a hat"]) for folder in (halves, encoders))
    np.testing.assert_allclose(came.context, whole.context, atol=0.02)
    assert not np.array_equal(came.context, whole.context)


def test_encoders_that_were_asked_for_come_before_the_sources_table(encoders):
    own = make_seeded_prompts(PROMPTS, 12, 40, 10)
    table = make_prompt_table(
        described(own), encoders, PROMPTS, without_text=False, own_first=False
    )
    np.testing.assert_array_equal(table.context, encode_prompts(encoders, PROMPTS).context)
