"""Text encoders inside a single file: transformers' embeddings, from both kinds of names."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors.numpy import save_file
from single_files import write_float8
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import get_state_dict, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig, VAEConfig
from omfa_jax.weights.model_description import ModelDescription
from omfa_jax.weights.prompt_table import load_prompts
from omfa_jax.weights.text_encoders import (
    encode_prompts,
    encode_prompts_of_file,
    make_prompt_table,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers

PROMPTS = ("dress a person", "undress a person", "a hat")
POSITIONS = 13
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_tokenizer(folder, words, **fields):
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def make_words(*more):
    letters = "abcdefghijklmnopqrstuvwxyz"
    # as in CLIP's own vocabulary "!" comes first and the marks last
    marks = ("<|startoftext|>", "<|endoftext|>")
    return ["!", *letters, *(f"{c}</w>" for c in letters), *more, *marks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A diffusers folder with SDXL's two encoders in small, random weights."""
    folder = tmp_path_factory.mktemp("encoders")
    words = make_words()
    for suffix, kind, width, act, pad in (
        ("", transformers.CLIPTextModel, 64, "quick_gelu", "<|endoftext|>"),
        ("_2", transformers.CLIPTextModelWithProjection, 128, "gelu", "!"),
    ):
        torch.manual_seed(width)
        config = transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=width // 64,
            max_position_embeddings=POSITIONS,
            projection_dim=10,
            hidden_act=act,
            eos_token_id=len(words) - 1,
        )
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                # biases and norms that count
                parameter.add_(0.2 * torch.randn(parameter.shape))
        model.save_pretrained(folder / f"text_encoder{suffix}")
        name = folder / f"tokenizer{suffix}"
        write_tokenizer(name, words, model_max_length=POSITIONS, pad_token=pad)
    return folder


def name_with_inner_module(state):
    """Return the tensors under the names that older versions of transformers give."""
    outer = ("text_model.", "text_projection.")
    return {k if k.startswith(outer) else f"text_model.{k}": t for k, t in state.items()}


def to_open_clip(state):
    """Return a Hugging Face state dict under OpenCLIP's names and shapes."""
    found = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    for at in range(3):
        layer = f"text_model.encoder.layers.{at}"
        for leaf in ("weight", "bias"):
            parts = [state[f"{layer}.self_attn.{letter}_proj.{leaf}"] for letter in "qkv"]
            found[f"transformer.resblocks.{at}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for theirs, ours in OPEN_CLIP.items():
                name = f"transformer.resblocks.{at}.{ours}.{leaf}"
                found[name] = state[f"{layer}.{theirs}.{leaf}"]
    return found


@pytest.fixture(scope="module")
def states(folder):
    kinds = (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection)
    models = [
        kind.from_pretrained(folder / f"text_encoder{suffix}")
        for kind, suffix in zip(kinds, ("", "_2"), strict=True)
    ]
    return [name_with_inner_module(model.state_dict()) for model in models], models[1]


@pytest.fixture(scope="module")
def tensors(states):
    (first, second), _ = states
    found = {f"conditioner.embedders.0.transformer.{k}": t.numpy() for k, t in first.items()}
    ids = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    found[ids] = np.arange(POSITIONS)[None]
    for key, tensor in to_open_clip(second).items():
        found[f"conditioner.embedders.1.model.{key}"] = tensor.numpy()
    return found


@pytest.fixture
def file(tensors, tmp_path):
    save_file(tensors, tmp_path / "sdxl.safetensors")
    return tmp_path / "sdxl.safetensors"


def test_diffusers_reads_the_same_open_clip_names(states, tensors):
    """Our test's file is the original format by a converter that is not ours."""
    (_, second), model = states
    named = {key: torch.from_numpy(np.asarray(tensor)) for key, tensor in tensors.items()}
    back = convert_open_clip_checkpoint(model, named, prefix="conditioner.embedders.1.model.")
    assert back.keys() >= second.keys()
    for key, tensor in second.items():
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("words", ["both", "one"])
def test_prompts_are_embedded_as_by_the_folder(folder, file, tmp_path, words):
    expected = encode_prompts(folder, PROMPTS)
    # one vocabulary serves both encoders: each has its own padding
    tokenizer = folder if words == "both" else folder / "tokenizer"
    table = encode_prompts_of_file(file, tokenizer, PROMPTS)
    assert table.prompts == (*PROMPTS, "")
    np.testing.assert_allclose(table.context, expected.context, atol=1e-6)
    np.testing.assert_allclose(table.pooled, expected.pooled, atol=1e-6)
    assert table.context[0].any() and not table.context[-1].any()


def test_the_command_uses_the_encoders_of_the_source(folder, file, tmp_path):
    unet = UNetConfig(context_dim=192, pooled_dim=10)
    source = ModelDescription(unet, VAEConfig(), None, None, None)
    table = make_prompt_table(
        source, file, PROMPTS, without_text=False, tokenizer=folder / "tokenizer"
    )
    np.testing.assert_allclose(table.context, encode_prompts(folder, PROMPTS).context, atol=1e-6)
    with pytest.raises(OmfaError, match=r"text encoders but no tokenizer: give --tokenizer"):
        make_prompt_table(source, file, PROMPTS, without_text=False)


def test_one_file_with_everything_is_imported_with_its_prompts(folder, tensors, tmp_path, capsys):
    config = dataclasses.replace(UNET, context_dim=192, pooled_dim=10)
    networks = in_one_file(
        get_state_dict(torch_unet(config)), get_state_dict(torch_vae(VAE)), config
    )
    save_file({**networks, **tensors}, tmp_path / "sdxl.safetensors")
    arguments = ["import", f"{tmp_path}/sdxl.safetensors", "--out", f"{tmp_path}/out"]
    arguments += ["--prompt", PROMPTS[0]]
    assert convert_weights.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "text encoders but no tokenizer: give --tokenizer" in said
    assert convert_weights.main([*arguments, "--tokenizer", str(folder / "tokenizer")]) == 0
    table = load_prompts(tmp_path / "out/prompts.safetensors")
    expected = encode_prompts(folder, PROMPTS[:1])
    assert table.prompts == (PROMPTS[0], "")
    np.testing.assert_allclose(table.context, expected.context, atol=1e-6)
    np.testing.assert_allclose(table.pooled, expected.pooled, atol=1e-6)


def test_encoders_behind_a_wrapper_are_found(folder, tensors, tmp_path):
    wrapped = {f"module.{key}": tensor for key, tensor in tensors.items()}
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    table = encode_prompts_of_file(tmp_path / "wrapped.safetensors", folder, PROMPTS)
    np.testing.assert_allclose(table.context, encode_prompts(folder, PROMPTS).context, atol=1e-6)


def lose(key):
    return lambda t: t.pop(key)


HF = "conditioner.embedders.0.transformer.text_model."
OC = "conditioner.embedders.1.model."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose(f"{HF}encoder.layers.1.mlp.fc1.bias"), r"encoder 1 are not SDXL's: 1 missing \("),
        (
            lose(f"{HF}embeddings.position_embedding.weight"),
            r"encoder 1 .* 1 missing \((text_model.)?embeddings.position",
        ),
        (lose(f"{OC}text_projection"), r"encoder 2 are not SDXL's: 1 missing \(text_projection"),
        (lose(f"{OC}transformer.resblocks.2.attn.in_proj_bias"), r"encoder 2 .* 3 missing \("),
        (lambda t: t.update({f"{OC}extra": np.zeros(2)}), r"encoder 2 .* 1 unexpected \(extra\)"),
        (
            lambda t: t.update({f"{HF}x": np.zeros(2, np.int8)}),
            "1 tensors of the text encoders are",
        ),
        (
            lambda t: t.update({f"{OC}ln_final.bias": np.zeros(2, np.float32)}),
            r"encoder 2 .* 1 misshapen \(text_model.final_layer_norm.bias\)",
        ),
        (
            lambda t: [t.pop(key) for key in list(t) if key.startswith("conditioner.embedders.1.")],
            "does not hold SDXL's two text encoders",
        ),
    ],
)
def test_encoders_with_a_fault_are_refused_in_one_line(folder, tensors, tmp_path, change, words):
    damaged = dict(tensors)
    change(damaged)
    save_file(damaged, tmp_path / "sdxl.safetensors")
    with pytest.raises(OmfaError, match=words) as caught:
        encode_prompts_of_file(tmp_path / "sdxl.safetensors", folder, PROMPTS)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_words_is_refused(file, tmp_path):
    more = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    write_tokenizer(tmp_path / "larger", make_words(*more))
    with pytest.raises(OmfaError, match=r"has more words than .* text encoder 1 \(55\)"):
        encode_prompts_of_file(file, tmp_path / "larger", PROMPTS)
    with pytest.raises(OmfaError, match=r"tokenizer: expected a folder at"):
        encode_prompts_of_file(file, tmp_path / "absent", PROMPTS)


def test_float8_encoders_need_the_flag(folder, tensors, tmp_path):
    path = tmp_path / "fp8.safetensors"
    floats = {key: tensor for key, tensor in tensors.items() if "position_ids" not in key}
    write_float8(path, floats, "float8_e4m3fn")
    with pytest.raises(OmfaError, match="tensors are 8-bit floats"):
        encode_prompts_of_file(path, folder, PROMPTS)
    table = encode_prompts_of_file(path, folder, PROMPTS, allow_fp8=True)
    expected = encode_prompts(folder, PROMPTS).context
    assert 0 < np.linalg.norm(table.context - expected) < 0.5 * np.linalg.norm(expected)
