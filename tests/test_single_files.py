"""SDXL in one file as it is passed around: parts missing, prefixes, leftovers, odd dtypes."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import state_of, torch, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights import ldm_names, tensor_names
from omfa_jax.weights.diffusers_folder import load_diffusers
from omfa_jax.weights.safetensors_stream import mmap_tensors
from omfa_jax.weights.torch_sources import open_source

CODES = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


@pytest.fixture(scope="module")
def states():
    return state_of(torch_unet(UNET)), state_of(torch_vae(VAE))


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


def write(path, tensors, metadata=None):
    save_file({key: np.ascontiguousarray(t) for key, t in tensors.items()}, path, metadata)
    return path


def write_float8(path, tensors, kind):
    """Write tensors in a dtype that safetensors' numpy functions do not know."""
    header, body = {}, b""
    for key, tensor in tensors.items():
        data = tensor.astype(getattr(ml_dtypes, kind)).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[key] = {"dtype": CODES[kind], "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def read_unet(source):
    """Return the UNet of an opened source as a PyTorch state dict."""
    return tensor_names.to_torch(tensor_names.from_torch({"u": source.components["unet"]})["u"])


def assert_unet(source, states):
    found = read_unet(source)
    assert found.keys() == states[0].keys()
    for key, tensor in states[0].items():
        np.testing.assert_array_equal(found[key], tensor, err_msg=key)


def fails(capsys, *arguments):
    """Import, which must fail; return the lines that are printed."""
    capsys.readouterr()
    assert convert_weights.main(["import", *map(str, arguments)]) == 2
    return capsys.readouterr().err.removeprefix("convert_weights: ").splitlines()


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
    said = [note for note in source.notes if "prefix" in note or "names" in note]
    assert bool(said) == bool(prefix)


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
    said = [n for n in source.notes if "removed" in n or "is ignored" in n]
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


# dtypes


@pytest.mark.parametrize("kind", CODES)
def test_float8_needs_the_flag(whole, states, tmp_path, capsys, kind):
    path = write_float8(tmp_path / "fp8.safetensors", whole, kind)
    lines = fails(capsys, path, "--out", tmp_path / "out")
    assert (
        len(lines) == 1 and f"{len(states[0])} tensors are 8-bit floats ({CODES[kind]})" in lines[0]
    )
    assert "--allow-fp8" in lines[0]
    assert (
        convert_weights.main(["import", str(path), "--out", str(tmp_path / "out"), "--allow-fp8"])
        == 0
    )
    said = f"UNet: upcast {len(states[0])} tensors from {CODES[kind]} to float32"
    assert said in capsys.readouterr().out
    expected = states[0]["conv_out.bias"].astype(getattr(ml_dtypes, kind)).astype(np.float32)
    found = mmap_tensors(tmp_path / "out/params/unet.safetensors")["conv_out/bias"]
    np.testing.assert_array_equal(found, expected)


def test_pickled_float8_needs_the_flag_too(vae_folder, tmp_path):
    unet = torch_unet(UNET)
    unet.save_config(tmp_path / "unet")
    state = {k: t.to(torch.float8_e4m3fn) for k, t in unet.state_dict().items()}
    torch.save(state, tmp_path / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(OmfaError, match=r"tensors are 8-bit floats \(float8_e4m3fn\)"):
        open_source(tmp_path, vae=vae_folder)
    found = read_unet(open_source(tmp_path, vae=vae_folder, allow_fp8=True))
    expected = state["conv_out.bias"].float().numpy()
    np.testing.assert_array_equal(found["conv_out.bias"], expected)


@pytest.mark.parametrize(
    ("key", "how"),
    [("scaled_fp8", "scaled float8"), ("model.diffusion_model.x.absmax", "bitsandbytes")],
)
def test_quantised_files_are_named(whole, tmp_path, key, how):
    path = write(tmp_path / "small.safetensors", {**whole, key: np.zeros(2, np.float32)})
    with pytest.raises(OmfaError, match=rf"is quantised \({how}; 1 tensors such as {key}\)"):
        open_source(path)


# shards


def write_shards(folder, tensors):
    folder.mkdir(exist_ok=True)
    keys = sorted(tensors)
    names = [f"sdxl-0000{i}-of-00002.safetensors" for i in (1, 2)]
    parts = {names[0]: keys[: len(keys) // 2], names[1]: keys[len(keys) // 2 :]}
    for name, part in parts.items():
        write(folder / name, {key: tensors[key] for key in part})
    weight_map = {key: name for name, part in parts.items() for key in part}
    index = folder / "sdxl.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_a_sharded_file_is_read_by_its_index_or_folder(whole, states, tmp_path, capsys):
    index = write_shards(tmp_path / "shards", whole)
    for source in (index, index.parent):
        assert_unet(open_source(source), states)
    first = index.with_name("sdxl-00001-of-00002.safetensors")
    lines = fails(capsys, first, "--out", tmp_path / "out")
    assert lines == [f"{first} is one of 2 shards of a model: give {index}"]
    first.unlink()
    lines = fails(capsys, index, "--out", tmp_path / "out")
    assert (
        len(lines) == 1 and "of which 1 are missing (sdxl-00001-of-00002.safetensors)" in lines[0]
    )


def test_a_folder_with_a_checkpoint_in_it_points_to_it(whole, tmp_path):
    write(tmp_path / "sdxl.safetensors", whole)
    with pytest.raises(
        OmfaError, match=r"no folder unet: .*; of its files sdxl\.safetensors, give"
    ):
        open_source(tmp_path)


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
