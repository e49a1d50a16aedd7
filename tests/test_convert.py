"""convert_weights.py from the outside: import, export, check, and imported folders."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_models import UNET_SHAPES, torch_unet, torch_vae

import convert_weights
from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import VAEConfig
from omfa_jax.weights.diffusers_folder import load_diffusers
from omfa_jax.weights.imported_folder import is_imported, load_imported, load_weights

UNET = UNET_SHAPES["attention-first"]
VAE = VAEConfig(block_channels=(8, 16), layers_per_block=1, norm_groups=8)
CONFIG = Path(__file__).parents[1] / "configs" / "base.py"
FILE = "diffusion_pytorch_model.safetensors"


def run(*arguments):
    return convert_weights.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    torch_unet(UNET).save_pretrained(folder / "unet")
    torch_vae(VAE).save_pretrained(folder / "vae")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_start": 0.00085}')
    return folder


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "weights"
    assert run("import", source, "--out", folder) == 0
    return folder


def test_import_keeps_every_bit(source, imported):
    assert is_imported(imported) and not is_imported(source)
    ours, theirs = load_weights(imported), load_weights(source)
    for name in ("unet_config", "vae_config", "scheduler", "omfa", "prompts", "notes"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.scheduler == {"beta_start": 0.00085}
    for name in ("unet_params", "vae_params"):
        found = dict(trees.flatten(getattr(ours, name)))
        for path, leaf in trees.flatten(getattr(theirs, name)):
            assert isinstance(found[path], np.ndarray)
            np.testing.assert_array_equal(found[path], leaf, err_msg=str(path))


def test_there_and_back_and_compared(source, imported, tmp_path, capsys):
    assert run("export", imported, "--out", tmp_path / "out") == 0
    for name in ("unet", "vae"):
        ours, theirs = load_file(tmp_path / "out" / name / FILE), load_file(source / name / FILE)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    capsys.readouterr()
    # in either order: the imported folder is the one that JAX runs
    assert run("check", tmp_path / "out", imported) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12].strip() for line in lines[1:4]] == ["unet", "vae encoder", "vae decoder"]
    assert lines[-1] == "agree"

    path = tmp_path / "out" / "unet" / FILE
    tensors = load_file(path)
    tensors["conv_out.bias"] = tensors["conv_out.bias"] + 1e-3
    save_file(tensors, path, {"format": "pt"})
    assert run("check", imported, tmp_path / "out") == 1
    assert "differ by more than --tolerance 5e-06" in capsys.readouterr().out


def test_import_maps_to_the_configs_inputs_and_says_so(source, tmp_path, capsys):
    wide = tmp_path / "wide"
    assert run("import", source, "--out", wide, "--config", CONFIG, "--null-prompts") == 0
    lines = capsys.readouterr().out.splitlines()
    expected = "conv_in: noisy 4 (SDXL base, by its width 4) -> noisy 4, mask 1, pose 4; mask, pose"
    assert lines[0].startswith(expected)
    model = load_imported(wide)
    assert model.unet_config == dataclasses.replace(UNET, in_channels=9)
    kernel = model.unet_params["conv_in"]["kernel"]
    assert kernel.shape[2] == 9 and kernel[:, :, :4].any() and not kernel[:, :, 4:].any()
    tasks = ("the garment worn by the person", "a person wearing the garment")
    assert model.prompts.prompts == (*tasks, "") and not model.prompts.context.any()
    assert model.prompts.context.shape == (3, 77, 40)
    groups = (("noisy", 4), ("mask", 1), ("clean", 4), ("pose", 4))
    wider = load_weights(wide, inputs=groups).unet_params["conv_in"]["kernel"]
    np.testing.assert_array_equal(wider[:, :, :5], kernel[:, :, :5])
    np.testing.assert_array_equal(wider[:, :, 9:], kernel[:, :, 5:])
    override = "--config.diffusion.unet_inputs=('noisy','mask')"
    assert run("import", source, "--out", wide, "--config", CONFIG, override, "--null-prompts") == 0
    assert load_imported(wide).unet_config.in_channels == 5


def test_a_config_without_encoders_needs_a_choice(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("import", source, "--out", out, "--config", CONFIG) == 2
    assert run("import", source, "--out", out, "--null-prompts") == 2
    assert run("import", source, "--out", out, "--config.seed=1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and not out.exists()
    assert "has no text encoders to embed 'the garment worn" in lines[0]
    assert "--text-encoders a folder with text_encoder" in lines[0]
    assert "give --config or --prompt" in lines[1] and "unknown arguments" in lines[2]


def test_faults_are_one_line_on_stderr(source, imported, tmp_path, capsys):
    assert run("import", source / "unet", "--out", tmp_path / "out") == 2
    assert run("check", imported, imported) == 2
    text = capsys.readouterr().err.splitlines()
    assert len(text) == 2 and all(line.startswith("convert_weights: ") for line in text)
    assert "no PyTorch weights" in text[1]
    assert not (tmp_path / "out").exists()


def test_damaged_imports_are_found(imported, tmp_path):
    manifest = json.loads((imported / "omfa_import.json").read_text())
    entry = manifest["tensors"]["unet/conv_out/bias"]
    assert entry["shape"] == [4] and entry["dtype"] == "float32" and len(entry["sha256"]) == 64

    copy = tmp_path / "copy"
    shutil.copytree(imported, copy)
    entry["sha256"] = "0" * 64
    (copy / "omfa_import.json").write_text(json.dumps(manifest))
    with pytest.raises(
        OmfaError, match=r"1 arrays differ from omfa_import.json \(unet/conv_out/bias"
    ):
        load_imported(copy)
    load_imported(copy, verify=False)
    entry["shape"] = [5]
    (copy / "omfa_import.json").write_text(json.dumps(manifest))
    with pytest.raises(OmfaError, match="1 arrays differ"):
        load_imported(copy, verify=False)
    del manifest["tensors"]["unet/conv_out/bias"]
    (copy / "omfa_import.json").write_text(json.dumps(manifest))
    with pytest.raises(OmfaError, match="1 arrays differ"):
        load_imported(copy)
    file = copy / "params" / "unet.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OmfaError, match=r"unet.safetensors is not a complete .* file") as caught:
        load_imported(copy)
    assert "\n" not in str(caught.value)


def test_diffusers_folder_is_not_needed_again(imported, tmp_path):
    with pytest.raises(OmfaError, match=r"no .*safetensors"):
        load_diffusers(imported)
