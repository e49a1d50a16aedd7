"""The VAE equals diffusers' AutoencoderKL; SDXL's counts; scaling and sampling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import compiled, nchw, nhwc, params_of, relative_l2, torch, torch_vae

from omfa_jax.models import (
    VAEConfig,
    decode,
    encode,
    encode_posterior,
    get_vae_config,
    get_vae_shapes,
    init_vae,
)
from omfa_jax.weights import diffusers_configs, tensor_names

CONFIG = VAEConfig(
    block_channels=(16, 24, 32), layers_per_block=2, latent_channels=6, norm_groups=8
)


@functools.cache
def pair():
    model = torch_vae(CONFIG)
    return params_of(CONFIG, model), model


@functools.cache
def images():
    # 20 x 12: latents of 5 x 3
    return np.random.default_rng(0).uniform(-1, 1, (2, 20, 12, 3)).astype(np.float32)


def test_encoder_equals_diffusers():
    params, model = pair()
    with torch.no_grad():
        expected = model.encode(nchw(images())).latent_dist
    mean, logvar = compiled(functools.partial(encode_posterior, CONFIG), params, images())
    assert relative_l2(mean, nhwc(expected.mean)) <= 5e-6
    assert relative_l2(logvar, nhwc(expected.logvar)) <= 5e-6


def test_decoder_equals_diffusers():
    params, model = pair()
    latents = np.random.default_rng(1).standard_normal((2, 5, 3, 6), np.float32)
    with torch.no_grad():
        expected = model.decode(nchw(latents) / 0.13025).sample
    came = compiled(functools.partial(decode, CONFIG), params, latents)
    assert came.shape == (2, 20, 12, 3)
    assert relative_l2(came, nhwc(expected)) <= 5e-6


def test_logvar_is_clipped():
    params, _ = pair()
    bias = np.concatenate([np.zeros(6), [1e3, -1e3, 0, 0, 0, 0]]).astype(np.float32)
    loud = {**params, "quant_conv": {**params["quant_conv"], "bias": bias}}
    _, logvar = compiled(functools.partial(encode_posterior, CONFIG), loud, images())
    assert np.all(logvar[..., 0] == 20) and np.all(logvar[..., 1] == -30)


def test_a_key_draws_from_the_posterior():
    params, _ = pair()
    # a posterior whose standard deviation is 3 everywhere
    flat = jnp.zeros((64, 8, 8, 3))
    quant = params["quant_conv"]
    kernel = np.array(quant["kernel"])
    kernel[..., 6:] = 0
    bias = np.concatenate([np.array(quant["bias"])[:6], np.full(6, 2 * np.log(3.0), np.float32)])
    known = {**params, "quant_conv": {"kernel": kernel, "bias": bias}}

    def latents(params):
        mean, _ = encode_posterior(CONFIG, params, flat)
        drawn = encode(CONFIG, params, flat, key=jax.random.key(0))
        return mean, encode(CONFIG, params, flat), drawn

    mean, scaled, drawn = compiled(latents, known)
    np.testing.assert_allclose(scaled, 0.13025 * mean, rtol=1e-6)
    assert np.std(drawn / 0.13025 - mean) == pytest.approx(3.0, rel=0.05)


def loud(params):
    """The same VAE with every convolution that writes to the residual streams 1e5 times as loud.

    The norms take it out again, so that the last layers see ordinary numbers.
    """
    writers = ("conv_in", "conv2", "conv_shortcut", "conv", "to_out.0")

    def scaled(path, leaf):
        return leaf * 1e5 if path[-2].key in writers else leaf

    return jax.tree_util.tree_map_with_path(scaled, params)


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_float16_is_taken_only_from_weights_made_for_it(name):
    params, inputs = pair()[0], images()
    run = encode
    if name == "decoder":
        inputs = np.random.default_rng(1).standard_normal((2, 5, 3, 6)).astype(np.float32)
        run = decode
    fixed = dataclasses.replace(CONFIG, force_upcast=False)

    def result(config, params, dtype):
        return compiled(functools.partial(run, config, dtype=dtype), params, inputs)

    assert not np.isfinite(result(fixed, loud(params), jnp.float16)).all()
    whole = result(CONFIG, loud(params), jnp.float32)
    assert np.isfinite(whole).all() and np.std(whole) > 1e-3
    np.testing.assert_array_equal(result(CONFIG, loud(params), jnp.float16), whole)
    assert relative_l2(result(CONFIG, loud(params), jnp.bfloat16), whole) <= 5e-2

    # weights that fit keep their float16, which is closer to float32 than bfloat16 is
    half = relative_l2(result(fixed, params, jnp.float16), result(CONFIG, params, jnp.float32))
    assert 0 < half <= 5e-3


def test_force_upcast_travels_with_the_weights():
    fixed = dataclasses.replace(CONFIG, force_upcast=False)
    for config in (CONFIG, fixed):
        fields = diffusers_configs.make_diffusers_vae_config(config)
        assert fields["force_upcast"] is config.force_upcast
        assert diffusers_configs.parse_diffusers_vae_config(fields, "vae") == config
    del fields["force_upcast"]
    assert diffusers_configs.parse_diffusers_vae_config(fields, "vae") == CONFIG


def test_sdxl_has_exactly_its_tensors():
    rows = tensor_names.make_name_table(get_vae_shapes(get_vae_config("sdxl")))
    sizes = {row.key: int(np.prod(row.shape)) for row in rows}
    assert len(sizes) == len(rows) == 248
    encoder = [key for key in sizes if key.startswith(("encoder.", "quant_conv."))]
    assert sum(sizes[key] for key in encoder) == 34_163_664
    assert sum(sizes.values()) == 83_653_863
    assert sum("group_norm" in row.key or "norm" in row.key for row in rows) == 2 * 52


def test_initial_weights_keep_an_image_finite():
    params = init_vae(get_vae_config("tiny"), jax.random.key(0))
    images = jnp.ones((1, 16, 8, 3))
    config = get_vae_config("tiny")
    out = compiled(lambda p: decode(config, p, encode(config, p, images)), params)
    assert out.shape == images.shape and np.isfinite(out).all() and np.std(out) > 0
