"""The VAE by tiles gives what it gives whole: shared norms, whole middle, no seam."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import compiled, params_of, relative_l2, torch_vae

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import (
    VAEConfig,
    decode,
    decode_any_size,
    decode_tiled,
    encode,
    encode_any_size,
    encode_tiled,
    get_vae_config,
    get_vae_shapes,
    tiling,
)
from omfa_jax.models.attention import attention, chunked_attention

CONFIG = VAEConfig(block_channels=(8, 16, 24), layers_per_block=1, latent_channels=6, norm_groups=4)
TILE = 4


@functools.cache
def params():
    return params_of(CONFIG, torch_vae(CONFIG))


@functools.cache
def latents():
    # one corner unlike the rest, so that a tile's statistics are not the picture's
    drawn = np.random.default_rng(0).standard_normal((2, 19, 26, 6)).astype(np.float32)
    return drawn * np.linspace(0.2, 3, 26, dtype=np.float32)[:, None]


@functools.cache
def images():
    return np.asarray(jnp.tanh(run(decode, latents())))


def run(function, array, **settings):
    return compiled(functools.partial(function, CONFIG, **settings), params(), array)


def test_decode_by_tiles_is_decode():
    whole = run(decode, latents())
    tiled = run(decode_tiled, latents(), tile=TILE)
    assert tiled.shape == (2, 76, 104, 3)
    assert relative_l2(tiled, whole) <= 5e-6
    assert np.abs(tiled - whole).max() <= 1e-4 * np.abs(whole).max()


def test_encode_by_tiles_is_encode():
    whole = run(encode, images())
    tiled = run(encode_tiled, images(), tile=TILE)
    assert tiled.shape == (2, 19, 26, 6)
    assert relative_l2(tiled, whole) <= 5e-6


def test_tiles_are_run_in_the_type_that_the_vae_allows():
    def types(dtype, **changes):
        config = VAEConfig(block_channels=(8, 16), layers_per_block=1, norm_groups=4, **changes)
        run = functools.partial(decode_tiled, config, tile=TILE, dtype=dtype)
        return str(jax.make_jaxpr(run)(get_vae_shapes(config), jnp.zeros((1, 9, 4, 4))))

    assert "f16[" not in types(jnp.float16)
    assert ":f16[" in types(jnp.float16, force_upcast=False)
    assert ":bf16[" in types(jnp.bfloat16)


@pytest.mark.parametrize(
    ("length", "tile", "reach"), [(19, 4, 3), (20, 4, 2), (9, 4, 3), (26, 8, 0)]
)
def test_tiles_cover_an_axis_and_own_each_pixel_once(length, tile, reach):
    axis = tiling._axis(length, tile, reach)
    owners, covered = np.zeros(length), np.zeros(length, bool)
    for begin, window, owned in zip(axis.tile_starts, axis.window_starts, axis.owned, strict=True):
        assert 0 <= window <= length - axis.window_size
        # as many pixels around the tile as are seen, or else the picture's border
        assert window == 0 or begin - window >= reach
        end = window + axis.window_size
        assert end == length or end - (begin + axis.tile_size) >= reach
        owners[window:end] += owned
        covered[begin : begin + axis.tile_size] = True
        assert covered[window:end][owned == 1].all()
    assert covered.all() and (owners == 1).all()


def test_large_images_are_tiled(monkeypatch):
    calls = []

    def recording(name):
        return lambda config, params, images, **_: calls.append(name) or images

    for name in ("decode", "encode"):
        monkeypatch.setattr(tiling, f"{name}_tiled", recording("tiled"))
        monkeypatch.setattr(tiling, name, recording("whole"))
    config = get_vae_config("sdxl")
    for side in (128, 136):
        decode_any_size(config, {}, jnp.zeros((3, side, 128, 4)))
        encode_any_size(config, {}, jnp.zeros((3, 8 * side, 1024, 3)))
    assert calls == ["whole", "whole", "tiled", "tiled"]


def test_chunked_attention_is_attention():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 13, 2, 8))
    came = jax.jit(functools.partial(chunked_attention, run=4))(q, k, v)
    assert relative_l2(came, attention(q, k, v)) <= 1e-6


def test_many_tokens_attend_in_runs(monkeypatch):
    module = importlib.import_module("omfa_jax.models.vae")
    whole = run(decode, latents())
    lengths = []

    def spy(q, k, v, run):
        lengths.append(run)
        return chunked_attention(q, k, v, run)

    monkeypatch.setattr(module, "chunked_attention", spy)
    monkeypatch.setattr(module, "MAX_UNCHUNKED_TOKENS", 100)
    monkeypatch.setattr(module, "CHUNK_SCORES", 50_000)
    assert relative_l2(run(decode, latents()), whole) <= 5e-6
    assert lengths == [50_000 // (19 * 26)]


def test_sides_that_are_no_multiples_are_refused():
    with pytest.raises(OmfaError, match="multiples of 4 px, got 18 x 20"):
        encode_tiled(CONFIG, {}, jnp.zeros((1, 18, 20, 3)))
