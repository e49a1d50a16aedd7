"""Single files in odd dtypes and in shards: what is read, what must be asked for, what is named."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from single_files import CODES, assert_unet, fails, read_unet, write, write_float8
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import get_state_dict, torch, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.model_folder import load_vae
from omfa_jax.weights.safetensors_stream import mmap_tensors
from omfa_jax.weights.torch_sources import open_source


@pytest.fixture(scope="module")
def states():
    return get_state_dict(torch_unet(UNET)), get_state_dict(torch_vae(VAE))


@pytest.fixture(scope="module")
def whole(states):
    """A single file's tensors, UNet and VAE."""
    return in_one_file(*states)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    torch_vae(VAE).save_pretrained(folder)
    return folder


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


def test_float8_is_refused_outside_the_import_too(vae_folder, tmp_path):
    shutil.copytree(vae_folder, tmp_path / "model/vae")
    path = tmp_path / "model/vae/diffusion_pytorch_model.safetensors"
    write_float8(path, load_file(path), "float8_e5m2")
    with pytest.raises(OmfaError, match=r"tensors are 8-bit floats \(F8_E5M2\)"):
        load_vae(tmp_path / "model", VAE)


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


@pytest.mark.parametrize(
    ("what", "key"),
    [
        ("Stable Cascade", "down_blocks.0.0.channelwise.0.weight"),
        ("PixArt or a relative", "caption_projection.linear_1.weight"),
        ("a diffusion transformer", "model.diffusion_model.blocks.0.self_attn.q.weight"),
        ("a diffusion transformer", "transformer_blocks.0.attn.add_q_proj.weight"),
    ],
)
def test_other_models_are_named(tmp_path, capsys, what, key):
    path = write(tmp_path / "other.safetensors", {key: np.zeros((2, 2), np.float32)})
    (line,) = fails(capsys, path, "--out", tmp_path / "out")
    assert f"has no UNet: it is {what}; give an SDXL checkpoint" in line


def test_a_vae_is_not_asked_for_with_another_models_unet(states, tmp_path, capsys):
    unet = {k: v for k, v in in_one_file(*states).items() if "label_emb" not in k}
    unet = {k: v for k, v in unet.items() if k.startswith("model.diffusion_model.")}
    path = write(tmp_path / "sd15.safetensors", unet)
    (line,) = fails(capsys, path, "--out", tmp_path / "out")
    assert "Stable Diffusion 1 or 2 checkpoint" in line
