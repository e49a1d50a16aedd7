"""FLOPs and parameters in closed form: against torch's counter, and the compiler's own count."""

import math

import jax
import pytest
from compiler_flops import unet_flops, vae_flops

from omfa_jax.cli.train import autoencoder_cost
from omfa_jax.models import UNETS, VAES, init_vae
from omfa_jax.scaling.components import unet_components, vae_components
from omfa_jax.scaling.flops import unet_forward
from omfa_jax.train.network import unet_shapes

# every size of its own
PRESETS = [name for name in UNETS if name != "ladder_320"]


@pytest.mark.parametrize(
    ("height", "width", "teraflops"),
    [(128, 128, 6.761), (128, 96, 4.943), (128, 192, 10.679), (128, 288, 17.261)],
)
def test_sdxl_matches_torchs_counter(height, width, teraflops):
    assert unet_forward(UNETS["sdxl"], height, width).total / 1e12 == pytest.approx(
        teraflops, abs=6e-4
    )


def test_shares_and_text_length():
    flops = unet_forward(UNETS["sdxl"], 128, 96)
    shares = (flops.conv, flops.linear, flops.attention)
    # cross-attention products are counted with attention here, with linear in the published shares
    assert shares[0] / 1e12 == pytest.approx(1.22, abs=0.01)
    one, two = (unet_forward(UNETS["sdxl"], 128, 96, text_tokens=n).total for n in (1, 154))
    assert one / 1e12 == pytest.approx(4.867, abs=1e-3)
    assert two / 1e12 == pytest.approx(5.020, abs=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_forward_is_the_compilers_count(name):
    config = UNETS[name]
    count = unet_components(config, 128, 240)
    assert count.total.forward == pytest.approx(
        unet_flops(config, 128, 240, 77, step=False), rel=1e-3
    )


@pytest.mark.parametrize(
    ("name", "height", "width", "tokens"), [("tiny", 16, 32, 4), ("ladder_12", 15, 20, 77)]
)
def test_a_training_step_is_the_compilers_count(name, height, width, tokens):
    """Small canvases, odd ones too: there the border and what is no product weigh most."""
    count = unet_components(UNETS[name], height, width, text_tokens=tokens)
    counted = unet_flops(UNETS[name], height, width, tokens, step=True)
    assert count.total.step == pytest.approx(counted, rel=3e-3)
    # the forward pass is a third of it, but for what has no gradient and what is no product
    assert 2.7 < count.total.step / count.total.forward < 3


@pytest.mark.parametrize(("name", "step"), [("tiny", True), ("sdxl", False)])
def test_the_vaes_halves_are_the_compilers_count(name, step):
    parts = vae_components(VAES[name], 96, 64)
    for half, part in zip(("encoder", "decoder"), parts, strict=True):
        counted = vae_flops(VAES[name], 96, 64, half=half, step=step)
        count = part.total.step if step else part.total.forward
        assert count == pytest.approx(counted, rel=5e-3), half


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_shapes(name):
    shapes = jax.tree.leaves(unet_shapes(UNETS[name]))
    assert unet_components(UNETS[name], 8, 8).total.params == sum(
        math.prod(leaf.shape) for leaf in shapes
    )


def test_a_vaes_parameters_and_what_its_training_costs():
    params = jax.eval_shape(lambda: init_vae(VAES["tiny"], jax.random.key(0)))
    sizes = {
        half: sum(math.prod(leaf.shape) for name in names for leaf in jax.tree.leaves(params[name]))
        for half, names in {
            "encoder": ("encoder", "quant_conv"),
            "decoder": ("decoder", "post_quant_conv"),
        }.items()
    }
    encoder, decoder = vae_components(VAES["tiny"], 64, 64)
    assert (encoder.total.params, decoder.total.params) == (sizes["encoder"], sizes["decoder"])
    whole = autoencoder_cost(VAES["tiny"], 64, 8, whole=True)
    half = autoencoder_cost(VAES["tiny"], 64, 8, whole=False)
    assert whole.params == sum(sizes.values()) and half.params == sizes["decoder"]
    assert whole.flops_per_example == 4 * (encoder.total.step + decoder.total.step)
    assert half.row(2, None)["frozen_flops"] == 2 * 8 * 4 * encoder.total.forward


def test_more_tokens_and_pixels_cost_where_they_should():
    one, two = (unet_components(UNETS["s"], 32, 32, text_tokens=n) for n in (10, 20))
    assert two.cross_attention.forward > one.cross_attention.forward
    assert two.conv == one.conv and two.self_attention == one.self_attention
    large = unet_components(UNETS["s"], 64, 32, text_tokens=10)
    assert large.feed_forward.forward == 2 * one.feed_forward.forward
    assert 2 < large.self_attention.forward / one.self_attention.forward < 4
    assert large.total.params == one.total.params
