"""The VAE behind `omfa data latents`: the shipped model's, as every process loads it."""

import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import omfa_jax
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import encode, encode_posterior
from omfa_jax.sampling.encode_records import FolderEncoder
from omfa_jax.weights.model_description import read_description
from omfa_jax.weights.model_folder import load_vae
from omfa_jax.weights.vae_fingerprint import fingerprint_vae

TINY = Path(omfa_jax.__file__).parent / "assets/tiny"


@pytest.fixture(scope="module")
def model():
    config = read_description(TINY).vae_config
    return config, load_vae(TINY, config)


@pytest.fixture(scope="module")
def encoder(model):
    return FolderEncoder(str(TINY), fingerprint_vae(*model))


@pytest.mark.parametrize("size", [8, 3])
def test_moments_are_the_posteriors_scaled(model, encoder, size):
    """Eight pictures are dealt to the eight devices, three are not."""
    config, params = model
    pictures = np.random.default_rng(0).uniform(-1, 1, (size, 32, 24, 3)).astype(np.float32)
    images = jnp.asarray(pictures)
    mean, std = (np.asarray(array) for array in pickle.loads(pickle.dumps(encoder))(pictures))
    logvar = np.asarray(encode_posterior(config, params, images)[1])
    np.testing.assert_allclose(mean, encode(config, params, images), rtol=1e-4, atol=1e-5)
    wanted = config.scaling_factor * np.exp(0.5 * logvar)
    np.testing.assert_allclose(std, wanted, rtol=1e-3)
    assert len(jax.local_devices()) == 8


def test_the_checksum_is_of_what_makes_latents(model):
    config, params = model
    before = fingerprint_vae(config, params)
    assert len(before) == 64
    kernel = params["quant_conv"]["kernel"]
    nudged = np.nextafter(kernel, np.inf, dtype=np.float32)
    assert fingerprint_vae(config, {**params, "quant_conv": {"kernel": nudged}}) != before
    assert fingerprint_vae(config, {**params, "decoder": {}}) == before


def test_a_worker_with_another_vae_is_refused(encoder):
    other = FolderEncoder(encoder.folder, "0" * 64)
    with pytest.raises(OmfaError, match="give every worker the same --model"):
        other(np.zeros((1, 32, 24, 3), np.float32))
