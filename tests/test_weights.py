"""diffusers folders: read foreign ones, write our own, and refuse broken ones."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import SMALL_UNET, SMALL_VAE
from torch_models import (
    AutoencoderKL,
    UNet2DConditionModel,
    compiled,
    relative_l2,
    torch,
    torch_unet,
    torch_vae,
    unet_inputs,
)

from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNETS, VAES, apply_unet
from omfa_jax.weights import diffusers_configs
from omfa_jax.weights.diffusers_folder import load_diffusers, save_diffusers
from omfa_jax.weights.imported_folder import get_export_fields
from omfa_jax.weights.prompt_table import make_seeded_prompts

OMFA = DiffusionSettings(
    tasks=(Task("try_on", ("person",), 1.0, "a person"),), slots_px=((16, 16),) * 3, stride=2
)
SCHEDULER = {"_class_name": "DDIMScheduler", "beta_start": 0.00085}
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A folder as diffusers itself saves it."""
    folder = tmp_path_factory.mktemp("foreign")
    torch_unet(SMALL_UNET).save_pretrained(folder / "unet")
    torch_vae(SMALL_VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def model(foreign):
    return load_diffusers(foreign)


def same_files(a, b):
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    return all(ours[k].dtype == theirs[k].dtype and (ours[k] == theirs[k]).all() for k in ours)


def test_foreign_folder(model):
    assert (model.unet_config, model.vae_config) == (SMALL_UNET, SMALL_VAE)
    assert model.scheduler is model.omfa is model.prompts is None and model.notes == ()
    assert all(leaf.dtype == np.float32 for _, leaf in trees.flatten(model.unet_params))


def test_export_is_bit_equal_and_loads_cleanly(model, foreign, tmp_path, caplog):
    save_diffusers(tmp_path / "out", **get_export_fields(model), dtype="fp32")
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        assert same_files(tmp_path / "out" / name / FILE, foreign / name / FILE)
        _, info = kind.from_pretrained(
            tmp_path / "out" / name, output_loading_info=True, low_cpu_mem_usage=False
        )
        assert not any(info[field] for field in info), info
    assert not caplog.records


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_files_come_back_the_same(dtype, kind, tmp_path):
    torch_unet(SMALL_UNET).to(kind).save_pretrained(tmp_path / "half" / "unet", variant=dtype)
    torch_vae(SMALL_VAE).to(kind).save_pretrained(tmp_path / "half" / "vae", variant=dtype)
    model = load_diffusers(tmp_path / "half")
    save_diffusers(tmp_path / "out", **get_export_fields(model), dtype=dtype)
    for name in ("unet", "vae"):
        source = tmp_path / "half" / name / f"diffusion_pytorch_model.{dtype}.safetensors"
        assert same_files(tmp_path / "out" / name / FILE, source)


def test_shards_are_read_as_one(model, foreign, tmp_path):
    torch_unet(SMALL_UNET).save_pretrained(tmp_path / "unet", max_shard_size="300KB")
    assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 1
    (tmp_path / "vae").symlink_to(foreign / "vae")
    sharded = dict(trees.flatten(load_diffusers(tmp_path).unet_params))
    for path, leaf in trees.flatten(model.unet_params):
        np.testing.assert_array_equal(sharded[path], leaf)


def test_what_omfa_adds_comes_back(model, tmp_path):
    full = dataclasses.replace(
        model,
        scheduler=SCHEDULER,
        omfa=json.loads(json.dumps(OMFA.to_json())),
        prompts=make_seeded_prompts(["a person"], 5, 24, 8),
    )
    save_diffusers(tmp_path / "out", **get_export_fields(full))
    back = load_diffusers(tmp_path / "out")
    assert back.scheduler == SCHEDULER and back.omfa == full.omfa
    assert back.prompts.prompts == ("a person", "")
    np.testing.assert_array_equal(back.prompts.context, full.prompts.context)


def test_failed_export_leaves_the_old_folder(model, tmp_path):
    save_diffusers(tmp_path / "out", **get_export_fields(model))
    huge = {**model.vae_params, "quant_conv": {"kernel": np.full((1, 1, 8, 8), 1e5, np.float32)}}
    broken = dataclasses.replace(model, vae_params=huge)
    with pytest.raises(OmfaError, match=r"quant_conv.weight has values up to 1e\+05.*--dtype bf16"):
        save_diffusers(tmp_path / "out", **get_export_fields(broken), dtype="fp16")
    assert load_diffusers(tmp_path / "out").unet_config == SMALL_UNET
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_file_is_one_line(foreign, tmp_path, keep):
    (tmp_path / "vae").symlink_to(foreign / "vae")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_bytes((foreign / "unet/config.json").read_bytes())
    (tmp_path / "unet" / FILE).write_bytes((foreign / "unet" / FILE).read_bytes()[:keep])
    with pytest.raises(OmfaError, match=f"{FILE} is not a complete safetensors file") as caught:
        load_diffusers(tmp_path)
    assert "\n" not in str(caught.value)


def test_absent_files_are_named(foreign, tmp_path):
    with pytest.raises(OmfaError, match="expected a folder"):
        load_diffusers(tmp_path / "nowhere")
    (tmp_path / "unet").mkdir()
    with pytest.raises(OmfaError, match=r"unet/config.json"):
        load_diffusers(tmp_path)
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir(exist_ok=True)
        fields = (foreign / name / "config.json").read_text()
        (tmp_path / name / "config.json").write_text(fields)
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(OmfaError, match=r"model.bin is not a complete torch.save file"):
        load_diffusers(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(OmfaError, match="is not JSON"):
        load_diffusers(tmp_path)


def test_widening_adds_channels_that_do_not_matter(model, foreign):
    wide = load_diffusers(foreign, inputs=(("noisy", 4), ("mask", 1), ("pose", 4)))
    assert len(wide.notes) == 1 and "mask, pose added with zero weights" in wide.notes[0]
    assert wide.unet_config.in_channels == 9
    x, *rest = map(jnp.asarray, unet_inputs(dataclasses.replace(SMALL_UNET, in_channels=9), 4, 4))

    old, new = (params["conv_in"]["kernel"] for params in (model.unet_params, wide.unet_params))
    np.testing.assert_array_equal(new[:, :, :4], old)
    assert not np.any(new[:, :, 4:])
    for (path, kept), (_, leaf) in zip(
        trees.flatten(wide.unet_params), trees.flatten(model.unet_params), strict=True
    ):
        if path != ("conv_in", "kernel"):
            np.testing.assert_array_equal(kept, leaf, err_msg="/".join(path))

    def outputs(narrow, params, x):
        both = (
            apply_unet(SMALL_UNET, narrow, x[..., :4], *rest),
            apply_unet(wide.unet_config, params, x, *rest),
        )
        return both

    expected, came = compiled(outputs, model.unet_params, wide.unet_params, x)
    # some processors sum a convolution of 9 channels in another order than one of 4
    assert relative_l2(came, expected) <= 1e-6


@pytest.mark.parametrize("config", [*UNETS.values(), SMALL_UNET], ids=str)
def test_unet_config_round_trip(config):
    fields = json.loads(json.dumps(diffusers_configs.make_diffusers_unet_config(config)))
    assert diffusers_configs.parse_diffusers_unet_config(fields, "config") == config


@pytest.mark.parametrize("config", [*VAES.values(), SMALL_VAE], ids=str)
def test_vae_config_round_trip(config):
    fields = json.loads(json.dumps(diffusers_configs.make_diffusers_vae_config(config)))
    assert diffusers_configs.parse_diffusers_vae_config(fields, "config") == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_linear_projection": False}, "use_linear_projection is False; only True"),
        ({"addition_embed_type": None}, "addition_embed_type is None"),
        ({"attention_head_dim": [2, 4]}, "attention_head_dim is .*, expected 3 entries"),
        ({"mid_block_type": None}, "mid_block_type is None"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types"),
        ({"layers_per_block": [1, 2, 2]}, "layers_per_block differs between levels"),
        ({"transformer_layers_per_block": [1, 2]}, ".* expected 3 entries"),
        ({"block_out_channels": None}, "block_out_channels is missing"),
    ],
)
def test_other_unets_are_refused(changes, words):
    fields = {**diffusers_configs.make_diffusers_unet_config(UNETS["m"]), **changes}
    with pytest.raises(OmfaError, match=f"some/config.json: {words}"):
        diffusers_configs.parse_diffusers_unet_config(fields, "some/config.json")


def test_other_vaes_are_refused():
    fields = diffusers_configs.make_diffusers_vae_config(VAES["sdxl"])
    for change in ({"shift_factor": 0.1}, {"use_quant_conv": False}, {"down_block_types": ["X"]}):
        with pytest.raises(OmfaError, match=next(iter(change))):
            diffusers_configs.parse_diffusers_vae_config({**fields, **change}, "config.json")
