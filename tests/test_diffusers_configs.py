"""Whatever a source's config files say is read and compared, or its being left out is said."""

import inspect
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import SMALL_UNET, SMALL_VAE
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import AutoencoderKL, UNet2DConditionModel, get_state_dict, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights import diffusers_configs, ldm_names
from omfa_jax.weights.diffusers_configs import SDXL_SCHEDULER
from omfa_jax.weights.torch_sources import open_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    torch_unet(SMALL_UNET).save_pretrained(folder / "unet")
    torch_vae(SMALL_VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def networks():
    return in_one_file(get_state_dict(torch_unet(UNET)), get_state_dict(torch_vae(VAE)))


@pytest.fixture
def edited(source, tmp_path):
    """Return the function that copies the source with other fields in one of its JSON files."""

    def edit(name, **fields):
        copy = tmp_path / "source"
        if not copy.exists():
            shutil.copytree(source, copy)
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**before, **fields}))
        return copy

    return edit


@pytest.mark.parametrize(
    ("network", "read", "said"),
    [
        (UNet2DConditionModel, diffusers_configs.UNET_READ, {"dropout", "upcast_attention"}),
        (AutoencoderKL, diffusers_configs.VAE_READ, set()),
    ],
)
def test_every_field_that_diffusers_knows_is_read_or_said(network, read, said):
    fields = set(inspect.signature(network.__init__).parameters) - {"self"}
    assert fields - set(read) == said


def test_fields_that_are_not_read_are_said(source, edited):
    assert open_source(source).notes == ()
    copy = edited("unet/config.json", dropout=0.1, upcast_attention=True, wavelets=3, tiling=None)
    copy = edited("vae/config.json", _class_name="AsymmetricAutoencoderKL")
    assert open_source(copy).notes == (
        "unet/config.json: not read: dropout=0.1, upcast_attention=True, wavelets=3",
        "vae/config.json: its class is AsymmetricAutoencoderKL, read as AutoencoderKL",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", [1, 2]),
        ("encoder_hid_dim", 4096),
        ("class_embeddings_concat", True),
        ("mid_block_only_cross_attention", True),
        ("class_embed_type", "timestep"),
        ("time_cond_proj_dim", 256),
    ],
)
def test_fields_of_other_unets_are_refused_by_name(edited, field, value):
    with pytest.raises(OmfaError, match=rf"unet/config.json: {field} is .* only None is supported"):
        open_source(edited("unet/config.json", **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"), [("shift_factor", 0.1), ("latents_mean", [0.0] * 4), ("latents_std", [1])]
)
def test_vaes_of_other_latents_are_refused_by_name(edited, field, value):
    with pytest.raises(OmfaError, match=rf"vae/config.json: {field} is"):
        open_source(edited("vae/config.json", **{field: value}))


def test_the_refiner_is_refused_however_it_comes(edited):
    with pytest.raises(OmfaError, match="is SDXL's refiner"):
        open_source(edited("model_index.json", requires_aesthetics_score=True))
    with pytest.raises(OmfaError, match=r"is SDXL's refiner.*\(widths 1280 and 2560\)"):
        open_source(
            edited(
                "unet/config.json",
                cross_attention_dim=1280,
                projection_class_embeddings_input_dim=2560,
            )
        )
    shapes = {
        "input_blocks.0.0.weight": (384, 4, 3, 3),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
        "label_emb.0.0.weight": (1536, 2560),
    }
    with pytest.raises(OmfaError, match=r"x\.safetensors is SDXL's refiner"):
        ldm_names.infer_unet_config(
            {f"{ldm_names.UNET_PREFIX}{k}": s for k, s in shapes.items()}, "x.safetensors"
        )


def test_another_pipeline_is_said(edited):
    for name in ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"):
        assert open_source(edited("model_index.json", _class_name=name)).notes == ()
    copy = edited("model_index.json", _class_name="KolorsPipeline")
    said = (
        "model_index.json: its class is KolorsPipeline; only UNet, VAE and text encoders are read"
    )
    assert open_source(copy).notes == (said,)


def test_what_is_the_samplers_alone_is_said(edited, tmp_path, capsys):
    fields = {**SDXL_SCHEDULER, "use_karras_sigmas": True, "clip_sample": True}
    copy = edited("scheduler/scheduler_config.json", **fields)
    assert convert_weights.main(["import", str(copy), "--out", str(tmp_path / "out")]) == 0
    said = (
        "scheduler_config.json: clip_sample, use_karras_sigmas not read (they affect only its own"
        " sampler)"
    )
    assert said in capsys.readouterr().out.splitlines()


def test_metadata_that_nothing_heeds_is_said(networks, tmp_path):
    source = tmp_path / "sdxl.safetensors"
    said = {"modelspec.architecture": "stable-diffusion-xl-v1-base", "ss_clip_skip": "None"}
    save_file(networks, source, said)
    assert not any("ignored" in note for note in open_source(source).notes)
    save_file(networks, source, {**said, "modelspec.timestep_range": "500,999"})
    notes = open_source(source).notes
    assert "metadata modelspec.timestep_range='500,999' is ignored" in notes


def test_a_files_own_vae_scale_is_taken(networks, tmp_path):
    source = tmp_path / "sdxl.safetensors"
    for stored, expected in ((np.float16(0.13025), 0.13025), (np.float32(0.5), 0.5)):
        save_file({**networks, "scale_factor": np.array(stored)}, source)
        opened = open_source(source)
        assert opened.vae_config.scaling_factor == expected
        assert not any("assuming SDXL's VAE scaling factor" in note for note in opened.notes)
