"""Folders as they come: variants, .bin, shards, and every kind of damage in one clear line."""

import json
import resource
import shutil
from collections import namedtuple

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import SMALL_UNET, SMALL_VAE
from torch_models import torch, torch_unet, torch_vae

import convert_weights
from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNetConfig
from omfa_jax.weights import safetensors_stream
from omfa_jax.weights.diffusers_folder import load_diffusers
from omfa_jax.weights.imported_folder import is_imported
from omfa_jax.weights.mismatches import KINDS
from omfa_jax.weights.torch_sources import open_source

STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    torch_unet(SMALL_UNET).save_pretrained(folder / "unet")
    torch_vae(SMALL_VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def copy(source, tmp_path):
    """A folder to damage."""
    return shutil.copytree(source, tmp_path / "source")


def same(a, b):
    found = dict(trees.flatten({"unet": a.unet_params, "vae": a.vae_params}))
    other = dict(trees.flatten({"unet": b.unet_params, "vae": b.vae_params}))
    assert found.keys() == other.keys()
    return all(np.array_equal(found[path], leaf) for path, leaf in other.items())


@pytest.mark.parametrize("shards", ["10GB", "40KB"])
def test_pickled_files_are_read_as_safetensors_are(source, tmp_path, shards):
    for name, model in (("unet", torch_unet(SMALL_UNET)), ("vae", torch_vae(SMALL_VAE))):
        model.save_pretrained(tmp_path / name, safe_serialization=False, max_shard_size=shards)
    files = sorted(path.name for path in (tmp_path / "unet").glob("*.bin"))
    assert (len(files) > 1) == (shards == "40KB")
    assert same(load_diffusers(tmp_path), load_diffusers(source))


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_half_variants_are_read_where_nothing_else_is(tmp_path, variant, pickled):
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    unet, vae = torch_unet(SMALL_UNET).to(kind), torch_vae(SMALL_VAE).to(kind)
    for name, model in (("unet", unet), ("vae", vae)):
        model.save_pretrained(
            tmp_path / name,
            variant=variant,
            safe_serialization=not pickled,
            max_shard_size="40KB" if name == "unet" else "10GB",
        )
    params = load_diffusers(tmp_path).unet_params
    kernel = params["conv_in"]["kernel"]
    expected = unet.conv_in.weight.float().detach().numpy().transpose(2, 3, 1, 0)
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, expected)


def test_an_image_prompt_adapter_is_left_out_and_said(copy, source):
    config = json.loads((copy / "unet/config.json").read_text())
    config["encoder_hid_dim_type"] = "ip_image_proj"
    (copy / "unet/config.json").write_text(json.dumps(config))
    path = copy / "unet" / f"{STEM}.safetensors"
    extra = ("encoder_hid_proj.x", "mid_block.attentions.0.attn2.processor.to_k_ip.0.weight")
    save_file({**load_file(path), **dict.fromkeys(extra, np.zeros(2, np.float32))}, path)
    assert open_source(copy).notes == ("left out 2 tensors of the image-prompt adapter",)
    assert same(load_diffusers(copy), load_diffusers(source))


def import_fails(source, out, capsys):
    """Import and return what stderr says; nothing that loads, nothing at all, is left."""
    assert convert_weights.main(["import", str(source), "--out", str(out)]) == 2
    text = capsys.readouterr().err
    assert text.count("convert_weights: ") == 1 and "Traceback" not in text
    assert not out.exists() and not list(out.parent.glob(".*"))
    return text


def edit(folder, name, change):
    path = folder / name / f"{STEM}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_all_faults_of_both_networks_are_one_diff(copy, tmp_path, capsys):
    def damage_unet(tensors):
        del tensors["conv_out.bias"]
        tensors["extra.weight"] = np.zeros(3, np.float32)
        tensors["conv_in.bias"] = np.zeros(5, np.float32)
        tensors["conv_norm_out.bias"][3] = np.nan

    edit(copy, "unet", damage_unet)
    edit(copy, "vae", lambda tensors: tensors["quant_conv.bias"].fill(np.inf))
    assert import_fails(copy, tmp_path / "out", capsys).splitlines() == [
        "convert_weights: the weights do not match the network:",
        f"  {copy}/unet",
        "  - conv_out.bias",
        "  + extra.weight",
        "  ~ conv_in.bias is (5,), expected (16,)",
        "  ! conv_norm_out.bias",
        f"  {copy}/vae",
        "  ! quant_conv.bias",
        f"{copy}/unet: 1 missing (-), 1 unexpected (+), 1 misshapen (~),"
        " 1 with NaN or infinity (!)",
        f"{copy}/vae: 1 with NaN or infinity (!)",
        KINDS["~"][1],
    ]


def test_nan_alone_is_found_while_writing(copy, tmp_path, capsys):
    edit(copy, "vae", lambda tensors: tensors["quant_conv.bias"].fill(np.nan))
    assert "\n  ! quant_conv.bias\n" in import_fails(copy, tmp_path / "out", capsys)
    with pytest.raises(OmfaError, match="1 with NaN or infinity"):
        load_diffusers(copy)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_index_with_a_missing_shard(copy, tmp_path, capsys, form):
    shutil.rmtree(copy / "unet")
    torch_unet(SMALL_UNET).save_pretrained(
        copy / "unet", max_shard_size="40KB", safe_serialization=form == "safetensors"
    )
    lost = sorted((copy / "unet").glob(f"*-of-*.{form}"))[1]
    lost.unlink()
    line = import_fails(copy, tmp_path / "out", capsys)
    assert f"of which 1 are missing ({lost.name})" in line
    index = copy / "unet" / f"{STEM}.{form}.index.json"
    index.write_text("{}")
    assert "has no weight_map" in import_fails(copy, tmp_path / "out", capsys)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_files(copy, tmp_path, capsys, keep):
    path = copy / "vae" / f"{STEM}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert "is not a complete safetensors file" in import_fails(copy, tmp_path / "out", capsys)
    path.unlink()
    torch.save(torch_vae(SMALL_VAE).state_dict(), copy / "vae" / f"{STEM}.bin")
    whole = (copy / "vae" / f"{STEM}.bin").read_bytes()
    (copy / "vae" / f"{STEM}.bin").write_bytes(whole[:keep])
    assert "is not a complete torch.save file" in import_fails(copy, tmp_path / "out", capsys)


def test_pickles_that_run_code_are_refused(copy, tmp_path, capsys):
    (copy / "vae" / f"{STEM}.safetensors").unlink()
    torch.save({"quant_conv.bias": print}, copy / "vae" / f"{STEM}.bin")
    assert "of tensors only" in import_fails(copy, tmp_path / "out", capsys)


def test_stable_diffusion_1_is_named(copy, tmp_path, capsys):
    path = copy / "unet" / "config.json"
    fields = json.loads(path.read_text())
    for name in ("addition_embed_type", "projection_class_embeddings_input_dim"):
        del fields[name]
    path.write_text(json.dumps({**fields, "cross_attention_dim": 768}))
    line = import_fails(copy, tmp_path / "out", capsys)
    assert "Stable Diffusion 1 and 2 (cross_attention_dim 768 and 1024, here 768)" in line


def test_quantised_files_are_refused(copy, tmp_path, capsys):
    edit(copy, "vae", lambda t: t.update({"quant_conv.bias": np.zeros(8, np.int8)}))
    assert "quant_conv.bias is I8, expected" in import_fails(copy, tmp_path / "out", capsys)


def test_unknown_widths_need_the_flag(source, tmp_path, capsys):
    wide = tmp_path / "wide"
    torch_unet(UNetConfig(**{**vars(SMALL_UNET), "in_channels": 12})).save_pretrained(wide / "unet")
    (wide / "vae").symlink_to(source / "vae")
    assert "for instance --source-inputs" in import_fails(wide, tmp_path / "out", capsys)
    arguments = ["--source-inputs", "noisy,clean,pose"]
    assert (
        convert_weights.main(["import", str(wide), "--out", str(tmp_path / "out"), *arguments]) == 0
    )
    manifest = json.loads((tmp_path / "out" / "omfa_import.json").read_text())
    assert manifest["inputs"] == [["noisy", 4], ["clean", 4], ["pose", 4]]


def test_no_space_is_seen_before_writing(source, tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(safetensors_stream.shutil, "disk_usage", lambda _: usage(9, 8, 1000))
    line = import_fails(source, tmp_path / "out", capsys)
    assert "1e-06 GB are free in" in line and "--out" in line


def test_a_disk_that_fills_up_leaves_nothing(source, tmp_path, capsys):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        line = import_fails(source, tmp_path / "out", capsys)
        assert "cannot write" in line and "File too large" in line
        with pytest.raises(OmfaError, match="File too large"):
            stream_out(source, tmp_path / "exported")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def stream_out(source, folder):
    from omfa_jax.weights.diffusers_folder import save_diffusers
    from omfa_jax.weights.imported_folder import get_export_fields

    save_diffusers(folder, **get_export_fields(load_diffusers(source)))


def test_a_killed_import_leaves_nothing_that_loads(source, tmp_path, monkeypatch):
    """Whatever the moment of the kill, the folder left over is refused."""
    seen, left = [], tmp_path / "left"

    real = safetensors_stream.as_bytes

    def stop(array):
        seen.append(array)
        if len(seen) in (3, 260):
            shutil.copytree(next(tmp_path.glob(".out-*")), left / str(len(seen)))
        return real(array)

    monkeypatch.setattr(safetensors_stream, "as_bytes", stop)
    assert convert_weights.main(["import", str(source), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in left.iterdir()) == ["260", "3"]
    for folder in left.iterdir():
        assert not is_imported(folder)
        with pytest.raises(OmfaError):
            load_diffusers(folder)
