"""What lies about in the wild: odd files, and folders that are somebody's. Nothing is guessed."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import SMALL_UNET, SMALL_VAE
from torch_models import torch, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.diffusers_folder import load_diffusers, save_diffusers
from omfa_jax.weights.imported_folder import get_export_fields, load_imported
from omfa_jax.weights.torch_comparison import compare_with_torch
from omfa_jax.weights.torch_sources import open_source

STEM = "diffusion_pytorch_model"
WIDE = dataclasses.replace(SMALL_UNET, in_channels=9)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wild")
    torch_unet(SMALL_UNET).save_pretrained(folder / "unet")
    torch_vae(SMALL_VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "source")


def run(*arguments):
    return convert_weights.main(list(map(str, arguments)))


def fails(capsys, *arguments):
    """Run a command that must fail; return what it says."""
    capsys.readouterr()
    assert run(*arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("convert_weights: ") and "Traceback" not in text
    return text.removeprefix("convert_weights: ")


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# what files hold besides the networks


def test_a_network_of_integers_is_refused_with_every_name(copy, capsys, tmp_path):
    path = copy / "unet" / f"{STEM}.safetensors"
    tensors = load_file(path)
    for key in ("conv_in.bias", "conv_out.bias"):
        tensors[key] = tensors[key].astype(np.int8)
    save_file(tensors, path)
    said = fails(capsys, "import", copy, "--out", tmp_path / "out")
    assert "? conv_in.bias is I8, expected floating point" in said
    assert "? conv_out.bias is I8" in said and "2 unusable (?)" in said


def test_a_tensor_in_two_shards_is_refused(tmp_path, capsys):
    torch_unet(SMALL_UNET).save_pretrained(tmp_path / "src/unet", max_shard_size="40KB")
    torch_vae(SMALL_VAE).save_pretrained(tmp_path / "src/vae")
    first, second = sorted((tmp_path / "src/unet").glob("*.safetensors"))[:2]
    key, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), key: tensor + 7}, second)
    said = fails(capsys, "import", tmp_path / "src", "--out", tmp_path / "out")
    assert f"? {key} is in {first.name} and in {second.name}" in said


def test_a_tensor_under_its_old_and_new_name_is_refused(copy, capsys, tmp_path):
    path = copy / "vae" / f"{STEM}.safetensors"
    tensors = load_file(path)
    key = "encoder.mid_block.attentions.0.to_q.weight"
    tensors[key.replace("to_q", "query")] = tensors[key]
    save_file(tensors, path)
    assert "is present twice, as" in fails(capsys, "import", copy, "--out", tmp_path / "out")


def test_every_broken_file_is_named(copy, capsys, tmp_path):
    for name in ("unet", "vae"):
        path = copy / name / f"{STEM}.safetensors"
        path.write_bytes(path.read_bytes()[:-9])
    said = fails(capsys, "import", copy, "--out", tmp_path / "out").splitlines()
    assert len(said) == 2 and all("is not a complete safetensors file" in line for line in said)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state_dict": {"x": torch.zeros(2)}}, "not tensors: state_dict"),
        ({"conv_in.bias": torch.zeros(16, dtype=torch.int8)}, "conv_in.bias is int8"),
    ],
)
def test_odd_pickles_are_refused(copy, capsys, tmp_path, state, words):
    (copy / "unet" / f"{STEM}.safetensors").unlink()
    torch.save(state, copy / "unet" / f"{STEM}.bin")
    assert words in fails(capsys, "import", copy, "--out", tmp_path / "out")


def test_pickles_from_before_archives_are_read(copy, source):
    (copy / "unet" / f"{STEM}.safetensors").unlink()
    state = torch_unet(SMALL_UNET).state_dict()
    torch.save(state, copy / "unet" / f"{STEM}.bin", _use_new_zipfile_serialization=False)
    kernel = load_diffusers(copy).unet_params["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel, load_diffusers(source).unet_params["conv_in"]["kernel"])


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("unet", "block_out_channels", 32, "block_out_channels is 32, expected a list"),
        ("unet", "in_channels", None, "in_channels is None, expected an integer"),
        ("unet", "transformer_layers_per_block", [[1], [2]], "differs within a level"),
        ("vae", "scaling_factor", None, "scaling_factor is None, expected a number above 0"),
        ("vae", "scaling_factor", "a", "scaling_factor is 'a'"),
        ("vae", "latent_channels", 4.5, "latent_channels is 4.5"),
    ],
)
def test_odd_configs_are_named(copy, capsys, tmp_path, name, field, value, words):
    path = copy / name / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    said = fails(capsys, "import", copy, "--out", tmp_path / "out")
    assert f"{name}/config.json: " in said and words in said


@pytest.mark.parametrize("text", ["[" * 100_000, '{"beta_start": ' + "1" * 5000 + "}", "\udcff"])
def test_files_that_json_cannot_read_are_named(copy, capsys, tmp_path, text):
    path = copy / "scheduler/scheduler_config.json"
    path.parent.mkdir()
    path.write_text(text, errors="surrogateescape")
    said = fails(capsys, "import", copy, "--out", tmp_path / "out")
    assert f"{path} is not JSON (" in said and said.count("\n") == 1


# what must not be guessed


def test_a_vaes_other_scale_is_said(source, tmp_path):
    scaled = shutil.copytree(source / "vae", tmp_path / "scaled")
    fields = json.loads((scaled / "config.json").read_text())
    (scaled / "config.json").write_text(json.dumps({**fields, "scaling_factor": 0.18215}))
    said = "the VAE's scaling factor is 0.18215; SDXL's is 0.13025"
    assert said in open_source(source, vae=scaled).notes
    assert said not in open_source(source).notes


def test_a_source_without_a_vae_takes_one_from_elsewhere(source, copy, capsys, tmp_path):
    shutil.rmtree(copy / "vae")
    assert "vae" in fails(capsys, "import", copy, "--out", tmp_path / "out")
    assert run("import", copy, "--out", tmp_path / "out", "--vae", source) == 0


def test_what_the_channels_are_taken_for_is_always_said(tmp_path, source, capsys):
    torch_unet(WIDE).save_pretrained(tmp_path / "wide/unet")
    shutil.copytree(source / "vae", tmp_path / "wide/vae")
    assert run("import", tmp_path / "wide", "--out", tmp_path / "out") == 0
    rule = "SDXL-inpainting, by its width 9"
    assert f"conv_in: noisy 4, mask 1, clean 4 ({rule}), unchanged" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/omfa_import.json").read_text())["inputs_known_by"] == rule


def test_prompts_are_in_the_manifest(source, tmp_path):
    out = tmp_path / "out"
    assert run("import", source, "--out", out, "--prompt", "a", "--null-prompts") == 0
    path = out / "prompts.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-4] + b"\0\0\x80\x3f")
    with pytest.raises(OmfaError, match=r"1 arrays differ from .*\(prompts/pooled\)"):
        load_imported(out)


# folders that are somebody's


def test_foreign_folders_are_never_replaced(source, tmp_path, capsys):
    imported, exported = tmp_path / "imported", tmp_path / "exported"
    assert run("import", source, "--out", imported) == 0
    assert run("export", imported, "--out", exported) == 0
    download = shutil.copytree(source, tmp_path / "download")
    (download / "manifest.json").write_text("{}")
    (download / "text_encoder").mkdir()
    for arguments in (
        ("import", source, "--out", download),
        ("import", download, "--out", download),
        ("export", imported, "--out", download),
        ("export", imported, "--out", imported),
        ("import", source, "--out", exported),
    ):
        before = tree(arguments[-1])
        said = fails(capsys, *arguments)
        reads_it = arguments[1] == arguments[-1]
        assert (" reads (" in said) if reads_it else ("that this command did not write" in said)
        assert tree(arguments[-1]) == before
    # their own they replace, unless something was put there
    for arguments in (
        ("import", source, "--out", imported),
        ("export", imported, "--out", exported),
    ):
        assert run(*arguments) == 0
        (arguments[-1] / "README.md").write_text("mine")
        assert "did not write (README.md)" in fails(capsys, *arguments)
        assert (arguments[-1] / "README.md").read_text() == "mine"
        (arguments[-1] / "README.md").unlink()


def test_a_foreign_manifest_makes_no_imported_folder(copy, source):
    (copy / "manifest.json").write_text("{}")
    kernel = load_diffusers(copy).unet_params["conv_out"]["kernel"]
    np.testing.assert_array_equal(kernel, load_diffusers(source).unet_params["conv_out"]["kernel"])


def test_nan_weights_are_not_exported(source, tmp_path):
    model = load_diffusers(source)
    model.unet_params["conv_out"]["bias"][1] = np.nan
    model.vae_params["quant_conv"]["bias"][0] = np.inf
    for dtype in ("fp32", "fp16"):
        with pytest.raises(OmfaError, match=r"2 tensors .* \(unet/conv_out.bias, vae/quant_conv"):
            save_diffusers(tmp_path / "out", **get_export_fields(model), dtype=dtype)
    assert not (tmp_path / "out").exists()


# check


def test_inputs_are_compared_by_what_they_mean(tmp_path, source):
    torch_unet(WIDE).save_pretrained(tmp_path / "wide/unet")
    shutil.copytree(source / "vae", tmp_path / "wide/vae")
    groups = (("noisy", 4), ("pose", 4), ("clean", 4), ("mask", 1))
    rearranged = load_diffusers(tmp_path / "wide", inputs=groups)
    assert compare_with_torch(rearranged, tmp_path / "wide")[0].relative_l2 < 5e-6


def test_other_networks_are_not_compared(source, copy, tmp_path, capsys):
    assert run("import", source, "--out", tmp_path / "ours") == 0
    torch_unet(WIDE).save_pretrained(tmp_path / "wide/unet")
    shutil.copytree(source / "vae", tmp_path / "wide/vae")
    said = fails(capsys, "check", tmp_path / "ours", tmp_path / "wide")
    assert (
        "its UNet takes noisy 4, mask 1, clean 4" in said
        and "mask, clean cannot be compared" in said
    )
    config = copy / "unet/config.json"
    other = dataclasses.replace(SMALL_UNET, context_dim=SMALL_UNET.context_dim + 8)
    shutil.rmtree(copy / "unet")
    torch_unet(other).save_pretrained(copy / "unet")
    said = fails(capsys, "check", tmp_path / "ours", copy)
    assert f"unet.context_dim {SMALL_UNET.context_dim} and {other.context_dim}" in said
    assert config.is_file()
    shutil.rmtree(copy / "unet")
    shutil.copytree(source / "unet", copy / "unet")
    path = copy / "unet" / f"{STEM}.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert "not a complete safetensors file" in fails(capsys, "check", tmp_path / "ours", copy)
