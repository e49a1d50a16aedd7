"""LoRAs merged into a UNet: the sums are those of diffusers and PEFT, whoever wrote the file."""

import json
import re

import numpy as np
import pytest
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from safetensors.numpy import save_file
from test_ldm_names import UNET, VAE, in_one_file
from torch_models import get_state_dict, relative_l2, torch, torch_unet, torch_vae

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights import ldm_names, tensor_names
from omfa_jax.weights.lora import LoraFile, parse_lora
from omfa_jax.weights.torch_sources import open_source

RANK, SCALE = 3, 0.7
# of every kind that trainers reach: attention, feed-forward, projection, resnet, sampler, embedding
MODULES = (
    "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.0.attentions.1.proj_in",
)
CONVOLUTIONS = (
    "down_blocks.1.resnets.0.conv1",
    "down_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.1.resnets.1.time_emb_proj",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch_unet(UNET).save_pretrained(folder / "unet")
    torch_vae(VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "sdxl.safetensors"
    save_file(in_one_file(get_state_dict(torch_unet(UNET)), get_state_dict(torch_vae(VAE))), path)
    return path


def make_matrices(modules, seed=0):
    """Return {module: (down, up)} at random, of the shapes that trainers write."""
    rng = np.random.default_rng(seed)
    weights = get_state_dict(torch_unet(UNET))
    found = {}
    for module in modules:
        shape = weights[f"{module}.weight"].shape
        ends = (1, 1) if len(shape) == 4 else ()
        down = rng.standard_normal((RANK, *shape[1:]), np.float32)
        found[module] = (down, rng.standard_normal((shape[0], RANK, *ends), np.float32))
    return found


def name_kohya(module, original):
    if original:
        key = ldm_names.make_unet_key_fn(UNET, "")(f"{module}.weight").removesuffix(".weight")
        module = key
    return f"lora_unet_{module.replace('.', '_')}"


def make_kohya(matrices, original, alpha=2.0):
    tensors = {}
    for module, (down, up) in matrices.items():
        name = name_kohya(module, original)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
    return tensors


def make_peft(matrices, prefix="unet.", adapter=""):
    tensors = {}
    for module, (down, up) in matrices.items():
        tensors[f"{prefix}{module}.lora_A{adapter}.weight"] = down
        tensors[f"{prefix}{module}.lora_B{adapter}.weight"] = up
    return tensors


def make_old_diffusers(matrices):
    """The attention processors of diffusers before PEFT."""
    tensors = {}
    for module, (down, up) in matrices.items():
        head, _, last = module.removesuffix(".0").rpartition(".")
        name = f"unet.{head}.processor.{last}_lora"
        tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = down, up
    return tensors


def fuse_by_diffusers(tensors, scale=SCALE, metadata=None):
    """Return the state dict of diffusers' UNet after its own loader and fuse."""
    unet = torch_unet(UNET)
    state = {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state, unet_config=unet.config)
    options = {} if metadata is None else {"metadata": metadata}
    unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas or None, **options)
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
    return get_state_dict(unet)


def merge(source, lora):
    opened = open_source(source, loras=[lora])
    params = tensor_names.from_torch({"unet": opened.components["unet"]})["unet"]
    return tensor_names.to_torch(params), opened.notes


def assert_equal(ours, theirs, changed):
    plain = get_state_dict(torch_unet(UNET))
    for key, tensor in theirs.items():
        assert relative_l2(ours[key], tensor) < 1e-6, key
        moved = not np.array_equal(ours[key], plain[key])
        assert moved == (key.removesuffix(".weight") in changed), key


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("original", [True, False])
def test_kohyas_names_merge_as_in_diffusers(base, tmp_path, original):
    # diffusers' reader knows the convolutions of kohya's files under the original names only
    modules = (*MODULES, *CONVOLUTIONS) if original else MODULES
    tensors = make_kohya(make_matrices(modules), original)
    save_file(tensors, tmp_path / "lora.safetensors")
    ours, notes = merge(base, LoraFile(tmp_path / "lora.safetensors", SCALE))
    assert_equal(ours, fuse_by_diffusers(tensors), modules)
    said = f"merged {tmp_path}/lora.safetensors with scale 0.7: {len(modules)} modules of rank 3"
    assert said in notes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "modules"),
    [
        (make_peft, (*MODULES, *CONVOLUTIONS)),
        (make_old_diffusers, MODULES[:2]),
    ],
)
def test_diffusers_names_merge_as_in_diffusers(base, tmp_path, make, modules):
    tensors = make(make_matrices(modules))
    save_file(tensors, tmp_path / "lora.safetensors")
    ours, _ = merge(base, LoraFile(tmp_path / "lora.safetensors", SCALE))
    assert_equal(ours, fuse_by_diffusers(tensors), modules)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stabilised", [False, True])
def test_alphas_of_a_config_count_as_in_peft(base, tmp_path, stabilised):
    fields = {"r": RANK, "lora_alpha": 5, "alpha_pattern": {MODULES[1]: 9}}
    fields |= {"use_rslora": stabilised, "target_modules": list(MODULES)}
    matrices = make_matrices(MODULES)
    of_unet = {f"unet.{name}": value for name, value in fields.items()}
    theirs = fuse_by_diffusers(make_peft(matrices), metadata=of_unet)
    # diffusers keeps the config in the metadata, PEFT beside the file
    text = json.dumps(of_unet)
    save_file(make_peft(matrices), tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(make_peft(matrices, "base_model.model."), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    for path in (tmp_path / "a.safetensors", folder):
        ours, _ = merge(base, LoraFile(path, SCALE))
        assert_equal(ours, theirs, MODULES)


def test_every_form_gives_the_same_weights_in_folders_and_single_files(base, single, tmp_path):
    matrices = make_matrices(MODULES)
    forms = (
        make_kohya(matrices, True, alpha=RANK),
        make_kohya(matrices, False, alpha=RANK),
        make_peft(matrices, adapter=".default_0"),
        make_peft(matrices, prefix=""),
    )
    results = []
    for at, tensors in enumerate(forms):
        save_file(tensors, tmp_path / f"{at}.safetensors")
        for source in (base, single):
            results.append(merge(source, LoraFile(tmp_path / f"{at}.safetensors"))[0])
    for other in results[1:]:
        for key, tensor in results[0].items():
            np.testing.assert_array_equal(other[key], tensor, err_msg=key)


def test_several_are_merged_by_the_command(base, tmp_path, capsys):
    for at in (0, 1):
        tensors = make_peft(make_matrices(MODULES, seed=at))
        tensors["text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"] = np.zeros((3, 4))
        save_file(tensors, tmp_path / f"{at}.safetensors")
    flags = ["--lora", f"{tmp_path}/0.safetensors:0.5", "--lora", f"{tmp_path}/1.safetensors:-1"]
    assert convert_weights.main(["import", str(base), "--out", f"{tmp_path}/out", *flags]) == 0
    said = capsys.readouterr().out
    assert "0.safetensors with scale 0.5: 4 modules" in said and "with scale -1: 4 modules" in said
    assert said.count("left out 1 tensors for the text encoders") == 2
    both = open_source(base, loras=[parse_lora(text) for text in flags[1::2]])
    ours = tensor_names.to_torch(tensor_names.from_torch({"u": both.components["unet"]})["u"])
    first, second = (make_matrices(MODULES, seed=at)[MODULES[0]] for at in (0, 1))
    plain = get_state_dict(torch_unet(UNET))[f"{MODULES[0]}.weight"]
    expected = plain + 0.5 * first[1] @ first[0] - second[1] @ second[0]
    np.testing.assert_allclose(ours[f"{MODULES[0]}.weight"], expected, rtol=1e-5, atol=1e-5)


def test_scales_are_read_from_the_flag(tmp_path):
    odd = tmp_path / "with:colon"
    odd.write_bytes(b"")
    assert parse_lora("a.safetensors") == LoraFile(type(odd)("a.safetensors"), 1.0)
    assert parse_lora("dir:x/a.safetensors:-0.25").scale == -0.25
    assert parse_lora(str(odd)) == LoraFile(odd, 1.0)
    for text in ("a:b", "a:nan", "a:inf", "a:"):
        with pytest.raises(OmfaError, match=rf"--lora {text}: expected FILE or FILE:scale"):
            parse_lora(text)


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_a_lora_as_the_source_is_named(tmp_path, capsys, form):
    matrices = make_matrices(MODULES[:1])
    tensors = make_kohya(matrices, True) if form == "kohya" else make_peft(matrices)
    save_file(tensors, tmp_path / "lora.safetensors")
    assert convert_weights.main(["import", f"{tmp_path}/lora.safetensors", "--out", "x"]) == 2
    said = capsys.readouterr().err
    names = "kohya's names" if form == "kohya" else "PEFT's or diffusers' names"
    assert f"it is a LoRA with {names}; give the base model as SRC and merge" in said
    assert said.count("\n") == 1
    assert "--lora" in said


def change(**edits):
    """Return the tensors of a LoRA after edits {"add": ..., "drop": ...}."""
    tensors = make_peft(make_matrices(MODULES[:2]))
    first = next(iter(tensors))
    for name, value in edits.items():
        if name == "drop":
            del tensors[first]
        elif name == "first":
            tensors[first] = value(tensors[first])
        else:
            tensors[value] = np.zeros((3, 3), np.float32)
    return tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (change(drop=True), "1 of its 2 modules do not fit this UNet (.* lacks its down matrix"),
        (change(first=lambda t: t[:, :5]), "do not fit this UNet (.* of (3, 5) and (64, 3) for a"),
        (change(add="unet.down_blocks.9.x.lora_A.weight"), "1 of its 3 modules are not in this"),
        (
            change(add="unet.conv_in.lora_magnitude_vector"),
            "1 tensors are of an adapter other than",
        ),
        (change(add="lora_unet_x.hada_w1_a"), "an adapter other than plain LoRA"),
        (change(first=lambda t: t.astype(np.int8)), "is I8, expected floating point; give a LoRA"),
        ({"down_blocks.0.a": np.zeros(3, np.float32)}, "is no LoRA (it is a UNet); give another"),
        (
            {"lora_te1_x.lora_up.weight": np.zeros((3, 3), np.float32)},
            "changes the text encoders only; give a LoRA",
        ),
    ],
)
def test_loras_that_do_not_fit_are_refused_in_one_line(base, tmp_path, tensors, words):
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(OmfaError, match=re.escape(words).replace(r"\.\*", ".*")) as caught:
        open_source(base, loras=[LoraFile(tmp_path / "lora.safetensors")])
    assert "\n" not in str(caught.value)


def test_nan_in_a_lora_is_the_loras(base, tmp_path, capsys):
    tensors = change(first=lambda t: np.full_like(t, np.nan))
    save_file(tensors, tmp_path / "lora.safetensors")
    arguments = ["--out", f"{tmp_path}/out", "--lora", f"{tmp_path}/lora.safetensors"]
    assert convert_weights.main(["import", str(base), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path}/lora.safetensors: unet." in said
    assert "contains NaN or infinity" in said and not (tmp_path / "out").exists()
