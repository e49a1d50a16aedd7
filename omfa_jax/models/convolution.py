"""Convolutions for Flax's layers: XLA's, except two cases that are faster as matrix products."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

UNIT_STRIDES = (1, 1)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **settings: Any,
) -> Float[Array, "b i j d"]:
    """Return `lax.conv_general_dilated` as `flax.linen.Conv` calls it, for undilated kernels.

    A 1x1 kernel is a matrix product of an `x` that is stored first: XLA's Triton products find no
    tiles for one that is put together meanwhile, such as an up block's skip connection (INTERNAL:
    "Couldn't find output tile sizes", jaxlib 0.10.2). At stride 1 the gradient of a larger kernel
    is computed as a matrix product too on CPUs, where XLA's convolution of images by images takes
    twice as long.
    """
    if tuple(strides) != UNIT_STRIDES:
        return lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("bhwc,cd->bhwd", lax.optimization_barrier(x), kernel[0, 0])
    return _at_stride_one(x, kernel, tuple(padding))


def _xla(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    return lax.conv_general_dilated(
        x, kernel, UNIT_STRIDES, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_at_stride_one = jax.custom_vjp(_xla, nondiff_argnums=(2,))


def _forward(x: Array, kernel: Array, padding: tuple) -> tuple[Array, tuple[Array, Array]]:
    return _xla(x, kernel, padding), (x, kernel)


def _backward(padding: tuple, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    # the gradient of the input is an ordinary convolution, at which XLA is fast everywhere
    to_x = jax.vjp(lambda x: _xla(x, kernel, padding), x)[1](g)[0]

    def by_xla(x: Array, g: Array) -> Array:
        return jax.vjp(lambda kernel: _xla(x, kernel, padding), kernel)[1](g)[0]

    def by_products(x: Array, g: Array) -> Array:
        return compute_kernel_gradient(x, g, kernel.shape[:2], padding).astype(kernel.dtype)

    # decided when compiling, not tracing: programs are lowered for devices that are not attached
    return to_x, lax.platform_dependent(x, g, cpu=by_products, default=by_xla)


_at_stride_one.defvjp(_forward, _backward)


def compute_kernel_gradient(
    x: Float[Array, "b h w c"],
    g: Float[Array, "b i j d"],
    size: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "kh kw c d"]:
    """Return the float32 gradient of a kernel of `size` at stride 1, given the output's gradient.

    Examples are processed one by one, because the patches of one example fit in a CPU's cache.
    """
    height, width = g.shape[1:3]

    def add(total: Array, example: tuple[Array, Array]) -> tuple[Array, None]:
        picture, gradient = example
        padded = jnp.pad(picture, (*padding, (0, 0)))
        windows = jnp.concatenate(
            [padded[i : i + height, j : j + width] for i in range(size[0]) for j in range(size[1])],
            axis=-1,
        )
        product = jnp.einsum("hwc,hwd->cd", windows, gradient, preferred_element_type=jnp.float32)
        return total + product, None

    channels, features = x.shape[-1], g.shape[-1]
    zero = jnp.zeros((size[0] * size[1] * channels, features), jnp.float32)
    return lax.scan(add, zero, (x, g))[0].reshape(*size, channels, features)
