"""Closed-form FLOPs and parameters equal torch's counter and XLA's cost analysis."""

import dataclasses
import math

import jax
import pytest
from compiler_flops import products, unet_flops, vae_flops
from tiny_training import SETTINGS

from omfa_jax.cli.main import main
from omfa_jax.models import UNETS, VAES, get_unet_shapes, init_vae
from omfa_jax.planning.flops import count_network_flops, count_unet_flops, count_vae_flops
from omfa_jax.planning.run_cost import compute_vae_cost

# every rule of the table: the ladder's widths differ in channels, depth and heads alone
PRESETS = ["tiny", "xs", "s", "m", "l", "sdxl", "ladder_12", "ladder_24", "ladder_64", "ladder_192"]
# lowering a step takes long, so these stand for the presets between them in width, depth and heads;
# the parameters of more presets are counted below
BUILDS = ["xs", "sdxl"]


@pytest.mark.parametrize(
    ("height", "width", "teraflops"),
    [(128, 128, 6.761), (128, 96, 4.943), (128, 192, 10.679), (128, 288, 17.261)],
)
def test_sdxl_matches_torchs_counter(height, width, teraflops):
    forward = products(count_unet_flops(UNETS["sdxl"], height, width)).total
    assert forward / 1e12 == pytest.approx(teraflops, abs=6e-4)


def test_shares_and_text_length():
    flops = products(count_unet_flops(UNETS["sdxl"], 128, 96))
    shares = (flops.conv, flops.linear, flops.attention)
    # cross-attention products are counted with attention here, with linear in the published shares
    assert shares[0] / 1e12 == pytest.approx(1.22, abs=0.01)
    one, two = (
        products(count_unet_flops(UNETS["sdxl"], 128, 96, text_tokens=n)).total for n in (1, 154)
    )
    assert one / 1e12 == pytest.approx(4.867, abs=1e-3)
    assert two / 1e12 == pytest.approx(5.020, abs=1e-3)


@pytest.mark.parametrize("name", BUILDS)
def test_forward_and_step_of_every_preset_equal_the_compilers_count(name):
    config = UNETS[name]
    total = count_unet_flops(config, 128, 240).total
    forward, step = unet_flops(config, 128, 240, 77)
    assert total.forward == pytest.approx(forward, rel=1e-3)
    assert total.step == pytest.approx(step, rel=3e-3)
    # the forward pass is a third of it, but for what has no gradient and what is no product
    assert 2.7 < total.step / total.forward < 3


@pytest.mark.parametrize(
    ("name", "height", "width", "tokens"), [("tiny", 16, 32, 4), ("ladder_12", 15, 20, 77)]
)
def test_small_and_odd_canvases_equal_the_compilers_count(name, height, width, tokens):
    """There the border and what is no product weigh most."""
    total = count_unet_flops(UNETS[name], height, width, text_tokens=tokens).total
    forward, step = unet_flops(UNETS[name], height, width, tokens)
    assert total.forward == pytest.approx(forward, rel=1e-3)
    assert total.step == pytest.approx(step, rel=3e-3)


@pytest.mark.parametrize("name", VAES)
def test_vae_encoder_and_decoder_equal_the_compilers_count(name):
    parts = count_vae_flops(VAES[name], 96, 64)
    for half, part in zip(("encoder", "decoder"), parts, strict=True):
        forward, step = vae_flops(VAES[name], 96, 64, half=half)
        assert part.total.forward == pytest.approx(forward, rel=5e-3), half
        assert part.total.step == pytest.approx(step, rel=5e-3), half


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_equal_the_shapes(name):
    shapes = jax.tree.leaves(get_unet_shapes(UNETS[name]))
    assert count_unet_flops(UNETS[name], 8, 8).total.params == sum(
        math.prod(leaf.shape) for leaf in shapes
    )


def test_a_networks_count_is_that_of_its_canvas():
    height, width, _ = SETTINGS.canvas.shape
    assert height != width
    (alone,) = count_network_flops(SETTINGS, UNETS["tiny"], text_tokens=5)
    assert alone == count_unet_flops(UNETS["tiny"], height, width, text_tokens=5)


def test_vae_parameters_and_training_cost():
    params = jax.eval_shape(lambda: init_vae(VAES["tiny"], jax.random.key(0)))
    sizes = {
        half: sum(math.prod(leaf.shape) for name in names for leaf in jax.tree.leaves(params[name]))
        for half, names in {
            "encoder": ("encoder", "quant_conv"),
            "decoder": ("decoder", "post_quant_conv"),
        }.items()
    }
    encoder, decoder = count_vae_flops(VAES["tiny"], 64, 64)
    assert (encoder.total.params, decoder.total.params) == (sizes["encoder"], sizes["decoder"])
    whole = compute_vae_cost(VAES["tiny"], 64, 8, decoder_only=False)
    half = compute_vae_cost(VAES["tiny"], 64, 8, decoder_only=True)
    assert whole.params == sum(sizes.values()) and half.params == sizes["decoder"]
    assert whole.flops_per_example == 4 * (encoder.total.step + decoder.total.step)
    assert half.compute_metrics(2, None)["frozen_flops"] == 2 * 8 * 4 * encoder.total.forward


def test_more_tokens_and_pixels_cost_in_the_right_layers():
    one, two = (count_unet_flops(UNETS["s"], 32, 32, text_tokens=n) for n in (10, 20))
    assert two.cross_attention.forward > one.cross_attention.forward
    assert two.conv == one.conv and two.self_attention == one.self_attention
    large = count_unet_flops(UNETS["s"], 64, 32, text_tokens=10)
    assert large.feed_forward.forward == 2 * one.feed_forward.forward
    assert 2 < large.self_attention.forward / one.self_attention.forward < 4
    assert large.total.params == one.total.params


def test_the_command_prints_one_network_by_kind_of_layer(capsys):
    flags = ["--config", "configs/tiny.py", "--preset", "ladder_16", "--text-tokens", "4"]
    assert main(["scaling", "flops", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one example, canvas 16x32, 4 text tokens")
    rows = {line[:26].strip(): line[26:].split() for line in lines[2:] if line}
    config = dataclasses.replace(UNETS["ladder_16"], in_channels=33, out_channels=16)
    count = count_unet_flops(config, 16, 32, text_tokens=4)
    for name, part in {**count.layer_costs, "UNet": count.total}.items():
        params, forward, step, share = rows[name.replace("_", " ")]
        assert int(params.replace(",", "")) == part.params
        assert float(forward) == pytest.approx(part.forward / 1e9, rel=1e-3)
        assert float(step) == pytest.approx(part.step / 1e9, rel=1e-3)
        assert float(share[:-1]) == pytest.approx(100 * part.step / count.total.step, abs=0.06)
    sizes = {"garment": (128, 96), "person": (128, 96), "face": (64, 64), "pose": (128, 96)}
    for name, size in sizes.items():
        encoder, decoder = count_vae_flops(VAES["tiny"], *size)
        assert int(rows[f"VAE encoder, {name}"][0].replace(",", "")) == encoder.total.params
        found = float(rows[f"VAE decoder, {name}"][2])
        assert found == pytest.approx(decoder.total.step / 1e9, rel=1e-3)


def test_the_command_prints_a_line_per_preset_and_rejects_bad_flags(capsys):
    assert main(["scaling", "flops", "--preset", "all"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0].rstrip(",") for row in rows] == list(UNETS)
    params = [int(row[2].replace(",", "")) for row in rows if row[0].startswith("ladder")]
    assert params == sorted(params) and params[-1] == 2_567_478_084
    for flags, reason in (
        ([], "give --config FILE, --preset NAME, or both"),
        (["--preset", "ladder_17"], "ladder_16"),
        (["--preset", "xs", "--text-tokens", "0"], "--text-tokens: expected an integer from 1"),
        (["--config", "nowhere.py"], "nowhere.py"),
    ):
        assert main(["scaling", "flops", *flags]) == 2
        assert reason in capsys.readouterr().err
