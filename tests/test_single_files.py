"""SDXL in one file as it is passed around: parts missing, prefixes, leftovers, odd dtypes."""

import json
import re

import numpy as np
import pytest
from single_files import assert_unet, fails, write
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import get_state_dict, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights import ldm_names, tensor_names
from omfa_jax.weights.diffusers_folder import load_diffusers
from omfa_jax.weights.torch_sources import open_source


@pytest.fixture(scope="module")
def states():
    return get_state_dict(torch_unet(UNET)), get_state_dict(torch_vae(VAE))


@pytest.fixture(scope="module")
def whole(states):
    """A single file's tensors, UNet and VAE."""
    return in_one_file(*states)


@pytest.fixture(scope="module")
def unet_alone(whole):
    """The UNet's tensors by their names after the prefix."""
    prefix = ldm_names.UNET_PREFIX
    return {k.removeprefix(prefix): t for k, t in whole.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    torch_vae(VAE).save_pretrained(folder)
    return folder


# files without one of the networks


def test_a_file_without_a_vae_asks_for_it_and_takes_it(whole, states, vae_folder, tmp_path, capsys):
    bare = {k: t for k, t in whole.items() if not k.startswith(ldm_names.VAE_PREFIX)}
    path = write(tmp_path / "bare.safetensors", bare)
    lines = fails(capsys, path, "--out", tmp_path / "out")
    assert len(lines) == 1 and f"{path} has a UNet but no VAE: give one with --vae" in lines[0]
    assert_unet(open_source(path, vae=vae_folder), states)


def test_a_folder_without_a_vae_asks_for_it_too(vae_folder, tmp_path, capsys):
    torch_unet(UNET).save_pretrained(tmp_path / "src/unet")
    lines = fails(capsys, tmp_path / "src", "--out", tmp_path / "out")
    assert len(lines) == 1 and "has no VAE (no vae/config.json): give one with --vae" in lines[0]
    lines = fails(capsys, tmp_path / "src/unet", "--vae", vae_folder, "--out", tmp_path / "out")
    assert len(lines) == 1 and "the folder of a UNet alone: give the folder above it" in lines[0]


@pytest.mark.parametrize(
    "prefix", ["", "model.", "diffusion_model.", "module.", "module.model.diffusion_model."]
)
def test_a_unet_alone_is_read_under_any_prefix(unet_alone, states, vae_folder, tmp_path, prefix):
    tensors = {prefix + key: tensor for key, tensor in unet_alone.items()}
    source = open_source(write(tmp_path / "unet.safetensors", tensors), vae=vae_folder)
    assert_unet(source, states)
    said = [note for note in source.notes if note.startswith("removed ")]
    # the usual prefix inside a wrapper is no news
    assert len(said) == bool(prefix) and all(prefix[:6] in note for note in said)


@pytest.mark.parametrize("prefix", ["", "unet.", "_orig_mod."])
def test_a_unet_under_diffusers_names(states, vae_folder, tmp_path, prefix):
    tensors = {prefix + key: tensor for key, tensor in states[0].items()}
    source = open_source(write(tmp_path / "unet.safetensors", tensors), vae=vae_folder)
    assert source.unet_config == UNET
    assert_unet(source, states)
    assert "its UNet has diffusers' names" in source.notes


def test_a_vae_under_diffusers_names(whole, states, vae_folder, tmp_path):
    path = write(tmp_path / "sdxl.safetensors", whole)
    alone = write(tmp_path / "vae.safetensors", states[1])
    for vae, stated in ((alone, False), (vae_folder / "diffusion_pytorch_model.safetensors", True)):
        source = open_source(path, vae=vae)
        params = tensor_names.from_torch({"v": source.components["vae"]})["v"]
        for key, tensor in tensor_names.to_torch(params).items():
            np.testing.assert_array_equal(tensor, states[1][key], err_msg=key)
        # with the config.json of its folder nothing is assumed
        assert stated != any("assuming SDXL's VAE" in note for note in source.notes)


def test_a_vaes_prefix_is_said(whole, states, tmp_path):
    path = write(tmp_path / "sdxl.safetensors", whole)
    wrapped = {f"_orig_mod.vae.{key}": tensor for key, tensor in states[1].items()}
    source = open_source(path, vae=write(tmp_path / "vae.safetensors", wrapped))
    said = f"removed _orig_mod. ({len(states[1])} tensors) and the prefix vae. from its names"
    assert said in source.notes


# names


@pytest.mark.parametrize(
    "wrap",
    [
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module._orig_mod.{key}",
        lambda key: key.replace("diffusion_model.", "diffusion_model._orig_mod."),
        lambda key: re.sub(r"(_blocks\.\d+)\.", r"\1._fsdp_wrapped_module.", key),
        lambda key: f"model.{key}",
        lambda key: f"pipeline.net.{key}",
    ],
)
def test_wrappers_are_recognised_and_said(whole, states, tmp_path, wrap):
    leftovers = {"betas": np.linspace(0, 1, 5, dtype=np.float32)}
    path = tmp_path / "wrapped.safetensors"
    write(path, {wrap(key): tensor for key, tensor in (whole | leftovers).items()})
    source = open_source(path)
    assert_unet(source, states)
    said = [note for note in source.notes if note.startswith("removed ")]
    assert len(said) == 1


def test_leftovers_are_left_out_and_said(whole, states, tmp_path):
    extra = {
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": np.zeros(3, np.float32),
        "cond_stage_model.logit_scale": np.zeros((), np.float32),
        "alphas_cumprod_prev": np.zeros(3, np.float32),
        "model_ema.diffusion_modelinput_blocks00weight": np.zeros(3, np.float32),
        "model_ema.num_updates": np.array(7),
    }
    source = open_source(write(tmp_path / "sdxl.safetensors", {**whole, **extra}))
    assert_unet(source, states)
    for said in (
        "left out the text encoder of Stable Diffusion 1 or 2 (2 tensors cond_stage_model.*)",
        "left out a moving average of the UNet (2 tensors model_ema.*)",
        "left out 1 tensors that belong to no network (alphas_cumprod_prev)",
    ):
        assert said in source.notes


def test_biases_with_axes_of_length_1_are_read_and_said(whole, states, tmp_path):
    odd = {k: t[:, None, None] if k.endswith("bias") else t for k, t in whole.items()}
    source = open_source(write(tmp_path / "sdxl.safetensors", odd))
    assert_unet(source, states)
    said = [note for note in source.notes if "axes of length 1" in note]
    assert (
        len(said) == 2
        and said[0].startswith("UNet: read ")
        and said[0].endswith("(128, 1, 1), as (128,)")
    )


# other diffusions


@pytest.mark.parametrize("keys", [("edm_mean", "edm_std"), ("edm_std",)])
def test_playground_is_named_once(whole, tmp_path, capsys, keys):
    tensors = {**whole, **{key: np.zeros((1, 4, 1, 1), np.float32) for key in keys}}
    path = write(tmp_path / "playground.safetensors", tensors)
    said = f"channel by channel, as Playground v2.5 was (its tensor {keys[0]})"
    assert convert_weights.main(["import", str(path), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count(said) == 1
    lines = fails(
        capsys, path, "--out", tmp_path / "out", "--null-prompts", "--config", "configs/vitonhd.py"
    )
    assert len(lines) == 1 and said in lines[0]


def test_playgrounds_vae_is_named(tmp_path, vae_folder):
    torch_unet(UNET).save_pretrained(tmp_path / "unet")
    fields = json.loads((vae_folder / "config.json").read_text())
    (tmp_path / "vae").mkdir()
    fields |= {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4}
    (tmp_path / "vae/config.json").write_text(json.dumps(fields))
    with pytest.raises(
        OmfaError, match=r"latents_mean is .*channel by channel are Playground v2.5's"
    ):
        load_diffusers(tmp_path)


# messages


def test_long_lists_are_cut_after_ten_with_the_count(whole, tmp_path, capsys):
    lost = [key for key in whole if "middle_block.1.transformer_blocks." in key][:31]
    extra = {f"stray.{at:02}": np.zeros(1, np.float32) for at in range(12)}
    tensors = {k: t for k, t in whole.items() if k not in lost} | extra
    path = write(tmp_path / "sdxl.safetensors", tensors)
    lines = fails(capsys, path, "--out", tmp_path / "out")
    listed = [line.removeprefix("  - ") for line in lines[2:12]]
    assert len(lost) == 31 and set(listed) < set(lost) and lines[12] == "  - and 21 more"
    assert lines[13:24] == [f"  + stray.{at:02}" for at in range(10)] + ["  + and 2 more"]
    assert lines[24:] == [
        f"{path}: 31 missing (-), 12 unexpected (+)",
        "the names are not SDXL's: give SDXL weights under diffusers' or the original names",
    ]


def test_the_advice_fits_the_fault_and_is_said_once(whole, tmp_path, capsys):
    key = "model.diffusion_model.out.2.bias"
    for value, advice in (
        (np.zeros(4, np.int8), "give the weights in floating point"),
        (np.zeros(5, np.float32), "the shapes are another model's"),
        (np.full(4, np.nan, np.float32), "the weights were saved broken"),
    ):
        path = write(tmp_path / "sdxl.safetensors", {**whole, key: value})
        lines = fails(capsys, path, "--out", tmp_path / "out")
        assert lines[-1].startswith(advice) and len(lines) == 5
    # both networks are in the file: what is wrong with all of it is said once
    old = {k: t for k, t in whole.items() if "label_emb" not in k}
    path = write(tmp_path / "sd1.safetensors", old)
    lines = fails(capsys, path, "--out", tmp_path / "out")
    assert len(lines) == 1 and "Stable Diffusion 1 or 2 checkpoint" in lines[0]


# folders


def test_prefixes_inside_diffusers_folders_are_recognised(states, tmp_path):
    torch_unet(UNET).save_pretrained(tmp_path / "unet")
    torch_vae(VAE).save_pretrained(tmp_path / "vae")
    for name, state, prefix in (
        ("unet", states[0], "module._orig_mod."),
        ("vae", states[1], "model."),
    ):
        path = tmp_path / name / "diffusion_pytorch_model.safetensors"
        write(path, {prefix + key: tensor for key, tensor in state.items()})
    source = open_source(tmp_path)
    assert_unet(source, states)
    params = tensor_names.from_torch({"v": source.components["vae"]})["v"]
    np.testing.assert_array_equal(
        tensor_names.to_torch(params)["quant_conv.bias"], states[1]["quant_conv.bias"]
    )
    assert "vae: removed the prefix model. from its names" in source.notes
    assert any(
        note.startswith("unet: removed _orig_mod. (428 tensors) and") for note in source.notes
    )


def test_swapped_folders_are_named(tmp_path, capsys):
    torch_unet(UNET).save_pretrained(tmp_path / "src/vae")
    torch_vae(VAE).save_pretrained(tmp_path / "src/unet")
    lines = fails(capsys, tmp_path / "src", "--out", tmp_path / "out")
    assert len(lines) == 2
    assert "unet/config.json describes AutoencoderKL, expected SDXL's UNet2DCondition" in lines[0]
    assert "vae/config.json describes UNet2DConditionModel, expected SDXL's Auto" in lines[1]


def test_renamed_weights_get_the_advice_on_names(states, vae_folder, tmp_path, capsys):
    torch_unet(UNET).save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    write(path, {key.replace("_blocks", "_stages"): tensor for key, tensor in states[0].items()})
    lines = fails(capsys, tmp_path, "--vae", vae_folder, "--out", tmp_path / "out")
    assert "the names are not SDXL's: give SDXL weights under" in lines[-1] and len(lines) == 26
