"""Attention kernels equal plain attention; the choice follows the devices and the dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.models.attention import attention
from omfa_jax.parallel.attention_kernels import (
    cudnn_attention,
    get_attention_kernel,
    select_attention_kernel,
    splash_attention,
)
from omfa_jax.parallel.mesh import MeshSettings, make_mesh


def tokens(length, heads=2, width=64):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((2, length, heads, width), np.float32)) for _ in "qkv"]


def value_and_gradients(kernel, arrays):
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape, np.float32))

    def value(*qkv):
        out = kernel(*qkv)
        return (out * weights).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))(*arrays)
    return [out, *grads]


@pytest.mark.parametrize("length", [128, 384])
def test_splash_equals_plain_attention_and_so_do_its_gradients(length):
    arrays = tokens(length)
    came = value_and_gradients(functools.partial(splash_attention, interpret=True), arrays)
    for ours, plain in zip(came, value_and_gradients(attention, arrays), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_unsupported_lengths_fall_back_to_xla(caplog):
    arrays = tokens(100)
    with caplog.at_level("INFO"):
        came = splash_attention(*arrays)
    np.testing.assert_array_equal(came, attention(*arrays))
    assert "attention over 100 tokens falls back from splash to xla" in caplog.text


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernel runs on NVIDIA only")
def test_cudnn_equals_plain_attention():
    arrays = [array.astype(jnp.bfloat16) for array in tokens(384)]
    for ours, plain in zip(
        value_and_gradients(cudnn_attention, arrays),
        value_and_gradients(attention, arrays),
        strict=True,
    ):
        np.testing.assert_allclose(np.float32(ours), np.float32(plain), atol=3e-2)


@pytest.mark.parametrize(
    ("asked", "platform", "dtype", "taken"),
    [
        ("auto", "cpu", "bfloat16", "xla"),
        ("auto", "gpu", "bfloat16", "cudnn"),
        ("auto", "cuda", "bfloat16", "cudnn"),
        ("auto", "gpu", "float32", "xla"),
        ("auto", "tpu", "float32", "splash"),
        ("xla", "tpu", "bfloat16", "xla"),
        ("splash", "tpu", "bfloat16", "splash"),
    ],
)
def test_the_kernel_follows_the_platform_and_the_dtype(asked, platform, dtype, taken):
    assert select_attention_kernel(asked, platform, dtype) == taken


def test_a_kernel_of_another_platform_is_rejected():
    with pytest.raises(
        OmfaError, match=r"attention=splash does not run on cpu .* auto selects xla"
    ):
        select_attention_kernel("splash", "cpu", "bfloat16")
    with pytest.raises(OmfaError, match="on gpu devices in float32"):
        select_attention_kernel("cudnn", "gpu", "float32")
    with pytest.raises(OmfaError, match="did you mean 'splash'"):
        select_attention_kernel("spash", "tpu", "bfloat16")


def test_heads_are_sharded_over_the_tensor_axis(monkeypatch):
    seen = []

    def plain(q, k, v):
        seen.append(q.shape)
        return attention(q, k, v)

    monkeypatch.setattr("omfa_jax.parallel.attention_kernels.splash_attention", plain)
    mesh = make_mesh(MeshSettings(data=1, tensor=2), jax.devices()[:2])
    arrays = tokens(128)
    came = jax.jit(get_attention_kernel("splash", mesh))(*arrays)
    assert seen[-1] == (2, 128, 1, 64)
    np.testing.assert_allclose(came, attention(*arrays), atol=1e-6)
