import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from omfa_jax.models.convolution import compute_kernel_gradient, convolve


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(0, 1), (1, 1)])
def test_a_convolution_and_its_gradients_are_torchs(size, stride, padding):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, 10, 5))
    kernel = rng.standard_normal((size, size, 5, 7))
    pad = (padding, padding) if size > 1 else ((0, 0), (0, 0))

    ours = [jnp.asarray(a, jnp.float32) for a in (x, kernel)]
    output, pull = jax.vjp(lambda x, k: convolve(x, k, (stride, stride), pad, **LAYOUT), *ours)
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, kernel)]
    top, bottom = pad[0]
    padded = torch.nn.functional.pad(theirs[0].permute(0, 3, 1, 2), (top, bottom, top, bottom))
    expected = torch.nn.functional.conv2d(padded, theirs[1].permute(3, 2, 0, 1), stride=stride)
    expected = expected.permute(0, 2, 3, 1)

    np.testing.assert_allclose(output, expected.detach(), atol=2e-5)
    g = rng.standard_normal(output.shape)
    for gradient, leaf in zip(
        pull(jnp.asarray(g, jnp.float32)),
        torch.autograd.grad(expected, theirs, torch.tensor(g)),
        strict=True,
    ):
        np.testing.assert_allclose(gradient, leaf, atol=5e-5)


LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def test_a_kernels_gradient_sums_halves_in_float32():
    """1 + 2^-8 has no bfloat16; 256 ones and one such sum do show."""
    ones = jnp.ones((1, 16, 16, 1), jnp.bfloat16)
    assert compute_kernel_gradient(ones, ones, (1, 1), ((0, 0), (0, 0)))[0, 0, 0, 0] == 256
    more = jnp.ones((2, 16, 16, 1), jnp.bfloat16).at[1].set(2.0**-7)
    total = compute_kernel_gradient(more, jnp.ones_like(more), (1, 1), ((0, 0), (0, 0)))
    assert total.dtype == jnp.float32 and total[0, 0, 0, 0] == 258


def test_other_devices_keep_the_compilers_gradient():
    shape = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32)

    def loss(x, kernel):
        return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **LAYOUT).sum()

    traced = jax.jit(jax.grad(loss, 1)).trace(shape, kernel)
    counts = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("dot_general")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert counts == {"cpu": 1, "cuda": 0, "tpu": 0}


def test_a_1x1_kernels_input_is_stored_first():
    """Without it XLA's GPU compiler ends on up blocks, which no test machine can show."""
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 1, 3, 2))
    program = str(jax.make_jaxpr(lambda x, k: convolve(x, k, (1, 1), ((0, 0), (0, 0))))(x, kernel))
    assert program.index("optimization_barrier") < program.index("dot_general")
