"""The name table: PyTorch's tensors to our tree and back, bit for bit; faults told together."""

import numpy as np
import pytest
from torch_models import UNET_SHAPES, component_of, get_state_dict, params_of, torch_unet, torch_vae

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import VAEConfig, get_vae_shapes
from omfa_jax.weights import mismatches, tensor_names, torch_sources
from omfa_jax.weights.torch_tensors import LazyTensors

UNET = UNET_SHAPES["sdxl-like"]
VAE = VAEConfig(block_channels=(8, 16), layers_per_block=1, norm_groups=8)


@pytest.mark.parametrize(("config", "make"), [(UNET, torch_unet), (VAE, torch_vae)])
def test_there_and_back_is_bit_equal(config, make):
    model = make(config)
    state, back = get_state_dict(model), tensor_names.to_torch(params_of(config, model))
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert back[key].dtype == np.float32 and back[key].flags.c_contiguous
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


@pytest.mark.parametrize("shape", [(3,), (300, 129), (3, 1, 140, 257), (1, 1, 1, 1)])
def test_tiles_copy_everything(shape):
    array = np.random.default_rng(0).standard_normal(shape)
    for axes in (range(len(shape)), range(len(shape))[::-1], np.roll(range(len(shape)), 1)):
        came = tensor_names.to_contiguous(array.transpose(axes))
        assert came.flags.c_contiguous
        np.testing.assert_array_equal(came, array.transpose(axes))


def test_layouts_and_stacks():
    model = torch_unet(UNET)
    state, params = get_state_dict(model), params_of(UNET, model)
    conv = params["down_blocks.0"]["resnets.1"]["conv2"]["kernel"]
    expected = state["down_blocks.0.resnets.1.conv2.weight"]
    assert conv[2, 1, 5, 7] == expected[7, 5, 2, 1]
    stack = params["mid_block"]["attentions.0"]["transformer_blocks"]
    kernel = stack["ff"]["net.0"]["proj"]["kernel"]
    assert kernel.shape == (3, 64, 512)
    name = "mid_block.attentions.0.transformer_blocks.2.ff.net.0.proj.weight"
    assert kernel[2, 11, 300] == state[name][300, 11]
    norm = stack["norm3"]["scale"]
    assert norm[1, 4] == state["mid_block.attentions.0.transformer_blocks.1.norm3.weight"][4]


def test_deprecated_attention_names_are_read():
    model = torch_vae(VAE)
    state = get_state_dict(model)
    old = {}
    for key, tensor in state.items():
        for before, now in tensor_names.DEPRECATED.items():
            key = key.replace(f"attentions.0.{now}.", f"attentions.0.{before}.")
        old[key] = tensor
    assert len(old.keys() - state.keys()) == 2 * 4 * 2
    sizes = {key: tensor.shape for key, tensor in old.items()}
    tensors = torch_sources.update_keys(LazyTensors("test", sizes, old.__getitem__))
    assert len(tensors.shapes.keys() & old.keys()) == len(old) - 16
    params = tensor_names.from_torch({"vae": tensor_names.Component(get_vae_shapes(VAE), tensors)})[
        "vae"
    ]
    for key, tensor in tensor_names.to_torch(params).items():
        np.testing.assert_array_equal(tensor, state[key], err_msg=key)


def test_text_keys_named_like_deprecated_ones_stay():
    assert tensor_names.update_key("encoder.mid_block.attentions.0.key.bias").endswith(
        "0.to_k.bias"
    )
    other = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.key.bias"
    assert tensor_names.update_key(other) == other


def test_all_faults_are_told_as_one_diff():
    state = dict(get_state_dict(torch_unet(UNET)))
    del state["conv_out.bias"], state["mid_block.resnets.0.norm1.weight"]
    state["lora.up.weight"] = np.zeros(3, np.float32)
    state["conv_in.weight"] = np.zeros((32, 4, 3, 3), np.float32)
    state["conv_norm_out.bias"] = np.full(32, np.nan, np.float32)
    with pytest.raises(OmfaError) as caught:
        tensor_names.from_torch({"a": component_of(UNET, state), "b": component_of(VAE, {})})
    text = str(caught.value)
    first, *rest = text.splitlines()
    assert first == "the weights do not match the network:"
    assert rest[:7] == [
        "  test",
        "  - conv_out.bias",
        "  - mid_block.resnets.0.norm1.weight",
        "  + lora.up.weight",
        "  ~ conv_in.weight is (32, 4, 3, 3), expected (32, 9, 3, 3)",
        "  ! conv_norm_out.bias",
        "  test",
    ]
    assert rest[7:-3] == [
        *(f"  - {row.key}" for row in component_of(VAE, {}).rows[:10]),
        "  - and 114 more",
    ]
    assert rest[-3:] == [
        "test: 2 missing (-), 1 unexpected (+), 1 misshapen (~), 1 with NaN or infinity (!)",
        "test: 124 missing (-)",
        mismatches.KINDS["~"][1],
    ]


def test_a_leaf_without_a_row_is_named():
    with pytest.raises(OmfaError, match=r"no PyTorch name for a/gamma of shape \(3,\)"):
        tensor_names.make_name_table({"a": {"gamma": np.zeros(3)}})
