"""SDXL's original single file: diffusers' own reader agrees with our column of names."""

import dataclasses
import functools

import diffusers
import jax
import numpy as np
import pytest
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.numpy import save_file
from torch_models import get_state_dict, torch_unet, torch_vae

import convert_weights
from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import UNETS, VAES, UNetConfig, VAEConfig, get_unet_shapes, get_vae_shapes
from omfa_jax.weights import diffusers_configs, ldm_names, tensor_names
from omfa_jax.weights.imported_folder import load_imported
from omfa_jax.weights.torch_sources import open_source

# what the file does not say (heads of 64, 32 norm groups, time ids of 256) is SDXL's
UNET = UNetConfig(
    block_channels=(32, 64),
    layers_per_block=2,
    transformer_depth=(0, 2),
    heads=(1, 1),
    context_dim=24,
    pooled_dim=16,
)
VAE = VAEConfig(block_channels=(32, 64), layers_per_block=1)


@functools.cache
def list_keys_and_shapes(config):
    """Tracing full SDXL takes seconds: once."""
    shapes = get_unet_shapes if isinstance(config, UNetConfig) else get_vae_shapes
    return [(row.key, row.shape) for row in tensor_names.make_name_table(shapes(config))]


def in_one_file(unet, vae, unet_config=UNET, vae_config=VAE):
    """Return diffusers' two state dicts under the single file's names and shapes."""
    unet_name, vae_name = (
        ldm_names.make_unet_key_fn(unet_config),
        ldm_names.make_vae_key_fn(vae_config, ldm_names.VAE_PREFIX),
    )
    tensors = {unet_name(key): tensor for key, tensor in unet.items()}
    for key, tensor in vae.items():
        convolution = ".attentions." in key and tensor.ndim == 2
        tensors[vae_name(key)] = tensor[..., None, None] if convolution else tensor
    assert len(tensors) == len(unet) + len(vae)
    return tensors


@pytest.fixture(scope="module")
def torch_models():
    return torch_unet(UNET), torch_vae(VAE)


@pytest.fixture(scope="module")
def file(torch_models, tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "sdxl.safetensors"
    tensors = in_one_file(*map(get_state_dict, torch_models))
    # whole numbers, as in SDXL's own file: nothing of ours
    embeddings = "conditioner.embedders.0.transformer.text_model.embeddings"
    tensors[f"{embeddings}.position_ids"] = np.arange(77)[None]
    tensors["model_ema.num_updates"] = np.array([7])
    tensors["denoiser.sigmas"] = np.zeros(3, np.float32)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("unet", "vae"), [(UNET, VAE), (UNETS["sdxl"], VAES["sdxl"])], ids=["small", "sdxl"]
)
def test_diffusers_reads_our_names(unet, vae):
    """Every name of both columns, by a converter that is not ours."""

    class Stub(str):
        """A tensor of which only the name counts."""

        shape = ()

    rows = {
        part: [key for key, _ in list_keys_and_shapes(c)]
        for part, c in (("unet", unet), ("vae", vae))
    }
    columns = {
        "unet": ldm_names.make_unet_key_fn(unet),
        "vae": ldm_names.make_vae_key_fn(vae, ldm_names.VAE_PREFIX),
    }
    file = {columns[part](key): Stub(key) for part, keys in rows.items() for key in keys}
    assert len(file) == len(rows["unet"]) + len(rows["vae"])
    back = convert_ldm_unet_checkpoint(file, diffusers_configs.make_diffusers_unet_config(unet))
    assert len(back) == len(rows["unet"]) and all(key == stub for key, stub in back.items())
    in_vae = {k: v for k, v in file.items() if k.startswith(ldm_names.VAE_PREFIX)}
    attention = [k for k in in_vae if ".attn_1." in k and k.endswith("weight")]
    plain = {k: v for k, v in in_vae.items() if k not in attention}
    back = convert_ldm_vae_checkpoint(plain, diffusers_configs.make_diffusers_vae_config(vae))
    assert all(key == stub for key, stub in back.items())
    assert len(back) == len(rows["vae"]) - len(attention)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.2.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.bias", "output_blocks.5.2.conv.bias"),
        ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
        ("down_blocks.2.resnets.1.conv_shortcut.weight", "input_blocks.8.0.skip_connection.weight"),
        ("mid_block.attentions.0.proj_in.bias", "middle_block.1.proj_in.bias"),
        ("add_embedding.linear_1.weight", "label_emb.0.0.weight"),
    ],
)
def test_known_names_of_sdxl(key, expected):
    """diffusers' reader takes either number for an upsampler; the published file has these."""
    assert ldm_names.make_unet_key_fn(UNETS["sdxl"])(key) == f"model.diffusion_model.{expected}"
    # where a level has no transformers, the upsampler moves up
    narrow = dataclasses.replace(UNET, block_channels=(64, 64), transformer_depth=(2, 0))
    bare = ldm_names.make_unet_key_fn(narrow)
    name = bare("up_blocks.0.upsamplers.0.conv.bias")
    assert name == "model.diffusion_model.output_blocks.2.1.conv.bias"


def test_diffusers_reads_our_file(torch_models):
    unet, vae = map(get_state_dict, torch_models)
    file = {k: jax.numpy.asarray(v) for k, v in in_one_file(unet, vae).items()}
    back = convert_ldm_vae_checkpoint(file, diffusers_configs.make_diffusers_vae_config(VAE))
    assert back.keys() == vae.keys()
    for key, tensor in vae.items():
        np.testing.assert_array_equal(back[key].reshape(tensor.shape), tensor, err_msg=key)


@pytest.mark.parametrize("config", [UNET, UNETS["sdxl"]], ids=str)
def test_configs_are_seen_in_shapes(config):
    column = ldm_names.make_unet_key_fn(config)
    shapes = {column(key): shape for key, shape in list_keys_and_shapes(config)}
    assert ldm_names.infer_unet_config(shapes, "file") == config
    for vae in (VAE, VAES["sdxl"]):
        column = ldm_names.make_vae_key_fn(vae, "")
        shapes = {column(key): shape for key, shape in list_keys_and_shapes(vae)}
        assert ldm_names.infer_vae_config(shapes, "") == vae


def test_both_forms_import_to_identical_trees(torch_models, file, tmp_path, capsys):
    for name, model in zip(("unet", "vae"), torch_models, strict=True):
        model.save_pretrained(tmp_path / "folder" / name)
    for source, out in ((file, "a"), (tmp_path / "folder", "b")):
        assert convert_weights.main(["import", str(source), "--out", str(tmp_path / out)]) == 0
    printed = capsys.readouterr().out
    assert "left out the text encoders, which are read only to embed prompts (1 tensors" in printed
    assert "left out the schedule's constants (1 tensors denoiser.*)" in printed
    for file in ("unet/config.json", "vae/config.json", "params/unet.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    ours, theirs = load_imported(tmp_path / "a"), load_imported(tmp_path / "b")
    for part in ("unet_params", "vae_params"):
        found = dict(trees.flatten(getattr(theirs, part)))
        for path, leaf in trees.flatten(getattr(ours, part)):
            np.testing.assert_array_equal(leaf, found[path], err_msg=str(path))


def test_the_vae_may_come_from_elsewhere(torch_models, file, tmp_path):
    other = torch_vae(VAE, seed=5)
    other.save_pretrained(tmp_path / "fixed")
    column = ldm_names.make_vae_key_fn(VAE, "")
    alone = {column(key): tensor for key, tensor in get_state_dict(other).items()}
    save_file(alone, tmp_path / "vae.safetensors")
    for source in (tmp_path / "fixed", tmp_path / "vae.safetensors"):
        model = open_source(file, vae=source)
        vae = tensor_names.to_torch(
            tensor_names.from_torch({"vae": model.components["vae"]})["vae"]
        )
        for key, tensor in get_state_dict(other).items():
            np.testing.assert_array_equal(vae[key], tensor)
        assert f"VAE from {source}" in model.notes
        assumed = [
            note for note in model.notes if "assuming SDXL's VAE scaling factor 0.13025" in note
        ]
        assert len(assumed) == source.is_file()
        scaled = open_source(file, vae=source, vae_scale=0.5)
        assert scaled.vae_config.scaling_factor == 0.5


def test_a_single_file_gets_sdxls_schedule(file):
    scheduler = diffusers.EulerDiscreteScheduler.from_config(open_source(file).scheduler)
    assert (scheduler.config.beta_end, scheduler.config.timestep_spacing) == (0.012, "leading")
    assert scheduler.config.steps_offset == 1


def test_another_models_vae_is_refused(torch_models, file, tmp_path, capsys):
    """Stable Diffusion 1's VAE has SDXL's shapes and another scale."""
    tensors = in_one_file(*map(get_state_dict, torch_models))
    save_file(
        {k: v for k, v in tensors.items() if "label_emb" not in k}, tmp_path / "x.safetensors"
    )
    arguments = ["import", str(file), "--out", str(tmp_path / "out")]
    assert convert_weights.main([*arguments, "--vae", str(tmp_path / "x.safetensors")]) == 2
    assert "Stable Diffusion 1 or 2 checkpoint" in capsys.readouterr().err


def test_other_files_are_named_for_what_they_are(torch_models, tmp_path):
    path = tmp_path / "some.safetensors"
    tensors = in_one_file(*map(get_state_dict, torch_models))
    old = {k: v for k, v in tensors.items() if "label_emb" not in k}
    old["cond_stage_model.transformer.x"] = np.zeros(2, np.float32)
    save_file(old, path)
    with pytest.raises(OmfaError, match=r"is a Stable Diffusion 1 or 2 checkpoint \(no label_emb"):
        open_source(path)
    save_file({"lora_unet.x": np.zeros(2, np.float32)}, path)
    with pytest.raises(
        OmfaError, match=r"has no UNet \(its names begin with lora_unet\); give an SDXL"
    ):
        open_source(path)
    (tmp_path / "some.ckpt").write_bytes(b"pickle")
    with pytest.raises(
        OmfaError, match=r"expected a \.safetensors file or a diffusers folder, and it is a text"
    ):
        open_source(tmp_path / "some.ckpt")


def test_sdxl_is_told_from_its_shapes_whichever_tensor_is_lost():
    """The one that is lost is then all that the diff has to say."""
    unet_name, vae_name = (
        ldm_names.make_unet_key_fn(UNETS["sdxl"]),
        ldm_names.make_vae_key_fn(VAES["sdxl"], ""),
    )
    shapes = {unet_name(key): shape for key, shape in list_keys_and_shapes(UNETS["sdxl"])}
    # of each level's tensors, the first blocks' are those that tell
    for lost in [key for key in shapes if "transformer_blocks" not in key]:
        rest = {key: shape for key, shape in shapes.items() if key != lost}
        assert ldm_names.infer_unet_config(rest, "here") == UNETS["sdxl"], lost
    shapes = {vae_name(key): shape for key, shape in list_keys_and_shapes(VAES["sdxl"])}
    for lost in shapes:
        rest = {key: shape for key, shape in shapes.items() if key != lost}
        assert ldm_names.infer_vae_config(rest, "") == VAES["sdxl"], lost


def test_faults_carry_the_files_own_names(torch_models, tmp_path, capsys):
    tensors = in_one_file(*map(get_state_dict, torch_models))
    del tensors["model.diffusion_model.out.2.bias"]
    tensors["model.diffusion_model.stray"] = np.zeros(2, np.float32)
    tensors["first_stage_model.quant_conv.bias"] = np.full(8, np.inf, np.float32)
    save_file(tensors, tmp_path / "sdxl.safetensors")
    arguments = ["import", str(tmp_path / "sdxl.safetensors"), "--out", str(tmp_path / "out")]
    assert convert_weights.main(arguments) == 2
    text = capsys.readouterr().err
    for line in (
        "- model.diffusion_model.out.2.bias",
        "+ model.diffusion_model.stray",
        "! first_stage_model.quant_conv.bias",
    ):
        assert f"\n  {line}\n" in text
    assert [p.name for p in tmp_path.iterdir()] == ["sdxl.safetensors"]


def test_inpainting_width_is_seen(torch_models, tmp_path):
    wide = dataclasses.replace(UNET, in_channels=9)
    tensors = in_one_file(get_state_dict(torch_unet(wide)), get_state_dict(torch_models[1]))
    save_file(tensors, tmp_path / "inpainting.safetensors")
    source = open_source(tmp_path / "inpainting.safetensors")
    assert source.unet_config == wide
    assert source.inputs.groups == (("noisy", 4), ("mask", 1), ("clean", 4))
