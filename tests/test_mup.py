"""muP: what it scales, that it is off by default, and the coordinate check."""

import dataclasses

import coordinates
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_settings import make_optimizer_settings
from tiny_training import UNET, make_run

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import flatten
from omfa_jax.models import UNETS, UNetConfig, get_unet_shapes, init_unet, init_vae
from omfa_jax.models.presets import VAES, scale_sdxl
from omfa_jax.train import mup
from omfa_jax.train.loop import train
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.settings import OptimizerSettings


def test_ratios_are_those_of_channels_alone():
    ratios = mup.compute_width_ratios(get_unet_shapes(scale_sdxl(128)), "ladder_32")
    assert ratios["conv_in", "kernel"] == (1, 4)
    assert ratios["conv_in", "bias"] == (1, 4)
    assert ratios["conv_out", "kernel"] == (4, 1)
    assert ratios["conv_out", "bias"] == (1, 1)
    block = ("mid_block", "attentions.0", "transformer_blocks")
    # four blocks deep here and one in the base: a layer axis is no width
    assert ratios[(*block, "ff", "net.2", "kernel")] == (4, 4)
    assert ratios[(*block, "attn2", "to_k", "kernel")] == (832 / 192, 4)
    assert ratios[(*block, "norm1", "scale")] == (1, 4)
    assert ratios["up_blocks.0", "resnets.0", "conv1", "kernel"] == (4, 4)
    assert ratios["time_embedding", "linear_1", "kernel"] == (4, 4)


def test_inputs_and_outputs_of_the_canvas_are_no_width():
    wide = UNetConfig(in_channels=33, out_channels=16)
    ratios = mup.compute_width_ratios(get_unet_shapes(wide), "ladder_32")
    assert ratios["conv_in", "kernel"] == (1, 10) and ratios["conv_out", "kernel"] == (10, 1)


def test_its_own_base_changes_nothing():
    ratios = mup.compute_width_ratios(get_unet_shapes(UNETS["ladder_24"]), "ladder_24")
    assert set(ratios.values()) == {(1, 1)}


def test_only_the_last_convolution_starts_smaller():
    plain = jax.jit(lambda: init_unet(coordinates.network(32), jax.random.key(0)))()
    coordinates.add_base(UNETS)
    try:
        scaled = dict(flatten(mup.rescale_initial_params(plain, coordinates.BASE)))
    finally:
        del UNETS[coordinates.BASE]
    for path, leaf in flatten(plain):
        if path == ("conv_out", "kernel"):
            np.testing.assert_allclose(scaled[path], leaf / 2**0.5, rtol=1e-6)
        else:
            np.testing.assert_array_equal(scaled[path], leaf)


def updates_of(settings: OptimizerSettings, params, grads):
    rule = make_optimizer(settings, 10)
    state = rule.init(params)
    return jax.jit(rule.update)(grads, state, params)[0]


@pytest.fixture
def presets(monkeypatch):
    monkeypatch.setitem(UNETS, coordinates.BASE, coordinates.network(coordinates.BASE_WIDTH))


def test_rates_fall_with_the_inputs_and_decay_does_not(monkeypatch):
    # without attention: half the leaves, whose updates are what takes long to compile
    base, wide = (
        dataclasses.replace(coordinates.network(width), transformer_depth=(0, 0))
        for width in (coordinates.BASE_WIDTH, 4 * coordinates.BASE_WIDTH)
    )
    monkeypatch.setitem(UNETS, coordinates.BASE, base)
    params = jax.jit(lambda: init_unet(wide, jax.random.key(0)))()
    grads = jax.tree.map(jnp.cos, params)
    fields = {"learning_rate": 0.1, "warmup_steps": 0, "clip_norm": 0.0}
    decay = 0.5
    plain = updates_of(make_optimizer_settings(**fields, weight_decay=decay), params, grads)
    scaled = updates_of(
        make_optimizer_settings(**fields, weight_decay=decay, mup_base=coordinates.BASE),
        params,
        grads,
    )
    ratios = mup.compute_width_ratios(params, coordinates.BASE)
    assert {ratio for ratio, _ in ratios.values()} == {1, 4}
    plain, weights = dict(flatten(plain)), dict(flatten(params))
    for path, leaf in flatten(scaled):
        shrunk = 0.1 * decay * weights[path]
        expected = (plain[path] + shrunk) / ratios[path][0] - shrunk
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-7, err_msg=str(path))


def test_off_is_optaxs_adamw_bit_for_bit():
    params = {"a": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(4)}
    grads = jax.tree.map(jnp.sin, params)
    settings = make_optimizer_settings(learning_rate=1e-2, warmup_steps=0, clip_norm=0.0)
    assert settings.mup_base == ""
    here = updates_of(settings, params, grads)
    rule = optax.adamw(1e-2, 0.9, 0.999, weight_decay=0.01)
    there = jax.jit(rule.update)(grads, rule.init(params), params)[0]
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_it_cannot_do_is_said():
    with pytest.raises(OmfaError, match=r"optimizer\.mup_base: .* got 'laddr_32'; did you mean"):
        make_optimizer_settings(mup_base="laddr_32")
    with pytest.raises(OmfaError, match="muon's updates scale differently with width"):
        make_optimizer_settings(mup_base="ladder_32", name="muon")
    with pytest.raises(OmfaError, match="mup_base='tiny' has different layers from"):
        mup.compute_width_ratios(get_unet_shapes(scale_sdxl(64)), "tiny")
    vae = jax.eval_shape(lambda: init_vae(VAES["tiny"], jax.random.key(0)))
    with pytest.raises(OmfaError, match="is for UNets"):
        mup.compute_width_ratios(vae, "ladder_32")


def test_coordinates_stay_with_mup_and_grow_without(presets):
    """The change of every layer's output in four steps grows as width ** exponent."""
    exponents = {}
    # which is the same with muP: test_its_own_base_changes_nothing
    base = coordinates.moved(coordinates.BASE_WIDTH, 1e-3, 4, with_mup=False)
    for with_mup in (True, False):
        wide = coordinates.moved(2 * coordinates.BASE_WIDTH, 1e-3, 4, with_mup=with_mup)
        by_width = {coordinates.BASE_WIDTH: base, 2 * coordinates.BASE_WIDTH: wide}
        exponents[with_mup] = np.array(list(coordinates.slopes(by_width, 1).values()))
    assert len(exponents[True]) > 50
    # measured: 0.19 and 0.00 with, 0.92 and 0.53 without
    assert exponents[True].max() < 0.4 and abs(np.median(exponents[True])) < 0.15
    assert exponents[False].max() > 0.6 and np.median(exponents[False]) > 0.3


def test_a_run_with_mup_restarts_and_cuts_its_state_as_any_other(tmp_path, monkeypatch):
    # without attention: half the weights, whose update is what takes long to compile
    wide = dataclasses.replace(UNET, transformer_depth=(0, 0))
    narrow = dataclasses.replace(wide, block_channels=(8, 16))
    monkeypatch.setitem(UNETS, "narrow", narrow)
    settings = make_optimizer_settings(learning_rate=1e-3, warmup_steps=0, mup_base="narrow")

    def apply(params, inputs, t, rows, prompts):
        # the UNet's weights and not its layers, which take long to compile
        kernels = (
            params["conv_in"]["kernel"].mean((0, 1)),
            params["conv_out"]["kernel"].mean((0, 1)),
        )
        return jnp.tanh(inputs @ kernels[0]) @ kernels[1]

    def run(steps):
        made = make_run(tmp_path, steps, (1, 2, 1), apply=apply, optimizer=settings)
        return dataclasses.replace(made, start=lambda: init_unet(wide, jax.random.key(0)))

    train(run(1))
    resumed = train(run(2))
    assert int(resumed.step) == 2
    kernel = dict(flatten(resumed.params))["mid_block", "resnets.0", "conv1", "kernel"]
    assert not kernel.sharding.is_fully_replicated
