"""The VAE equals diffusers' AutoencoderKL; SDXL's counts; scaling and sampling."""

import functools

import jax
import numpy as np
import pytest
from torch_models import nchw, nhwc, params_of, relative_l2, torch, torch_vae

from omfa_jax.models import VAEConfig, decode, encode, init_vae, posterior, vae
from omfa_jax.weights import names
from omfa_jax.weights.folder import shapes_of_vae

CONFIG = VAEConfig(
    block_channels=(16, 24, 32), layers_per_block=2, latent_channels=6, norm_groups=8
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


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
    mean, logvar = jax.jit(functools.partial(posterior, CONFIG))(params, images())
    assert relative_l2(mean, nhwc(expected.mean)) <= 5e-6
    assert relative_l2(logvar, nhwc(expected.logvar)) <= 5e-6
    scaled = encode(CONFIG, params, images())
    assert relative_l2(scaled, 0.13025 * nhwc(expected.mean)) <= 5e-6


def test_decoder_equals_diffusers():
    params, model = pair()
    latents = np.random.default_rng(1).standard_normal((2, 5, 3, 6), np.float32)
    with torch.no_grad():
        expected = model.decode(nchw(latents) / 0.13025).sample
    came = jax.jit(functools.partial(decode, CONFIG))(params, latents)
    assert came.shape == (2, 20, 12, 3)
    assert relative_l2(came, nhwc(expected)) <= 5e-6


def test_logvar_is_clipped():
    params, _ = pair()
    bias = np.concatenate([np.zeros(6), [1e3, -1e3, 0, 0, 0, 0]]).astype(np.float32)
    loud = {**params, "quant_conv": {**params["quant_conv"], "bias": bias}}
    _, logvar = posterior(CONFIG, loud, images())
    assert np.all(logvar[..., 0] == 20) and np.all(logvar[..., 1] == -30)


def test_a_key_draws_from_the_posterior():
    params, _ = pair()
    # a posterior of one known variance: a large batch of equal images shows it
    flat = np.zeros((64, 8, 8, 3), np.float32)
    quant = params["quant_conv"]
    kernel = np.array(quant["kernel"])
    kernel[..., 6:] = 0
    bias = np.concatenate([np.array(quant["bias"])[:6], np.full(6, 2 * np.log(3.0), np.float32)])
    known = {**params, "quant_conv": {"kernel": kernel, "bias": bias}}
    mean, _ = posterior(CONFIG, known, flat)
    drawn = encode(CONFIG, known, flat, key=jax.random.key(0)) / CONFIG.scaling_factor
    assert np.std(drawn - mean) == pytest.approx(3.0, rel=0.05)
    again = encode(CONFIG, known, flat, key=jax.random.key(0)) / CONFIG.scaling_factor
    np.testing.assert_array_equal(drawn, again)


def test_sdxl_has_exactly_its_tensors():
    rows = names.table(shapes_of_vae(vae("sdxl")))
    sizes = {row.key: int(np.prod(row.shape)) for row in rows}
    assert len(sizes) == len(rows) == 248
    encoder = [key for key in sizes if key.startswith(("encoder.", "quant_conv."))]
    assert sum(sizes[key] for key in encoder) == 34_163_664
    assert sum(sizes.values()) == 83_653_863
    assert sum("group_norm" in row.key or "norm" in row.key for row in rows) == 2 * 52


def test_initial_weights_keep_an_image_finite():
    params = init_vae(vae("tiny"), jax.random.key(0))
    config = vae("tiny")
    size = config.stride
    out = decode(config, params, encode(config, params, np.ones((1, size, size, 3), np.float32)))
    assert out.shape == (1, size, size, 3) and np.isfinite(out).all()
