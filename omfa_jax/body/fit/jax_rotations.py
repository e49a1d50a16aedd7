"""Rotations in JAX, with finite derivatives at zero."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def exp_so3(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """Return the rotation matrices of axis-angle vectors in radians (Rodrigues)."""
    angle, squared, cross = _angle_and_cross(vectors)
    small = squared < 1e-6
    first = jnp.where(small, 1 - squared / 6, jnp.sin(angle) / angle)
    second = jnp.where(small, 0.5 - squared / 24, (1 - jnp.cos(angle)) / angle**2)
    return jnp.eye(3) + first * cross + second * matmul_small(cross, cross)


def right_jacobian(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """Return J with exp(v + dv) = exp(v) exp(J dv) for small dv."""
    angle, squared, cross = _angle_and_cross(vectors)
    small = squared < 1e-3
    first = jnp.where(small, 0.5 - squared / 24, (1 - jnp.cos(angle)) / angle**2)
    second = jnp.where(small, 1 / 6 - squared / 120, (angle - jnp.sin(angle)) / angle**3)
    return jnp.eye(3) - first * cross + second * matmul_small(cross, cross)


def matmul_small(a: Float[Array, "*n 3 3"], b: Float[Array, "*n 3 3"]) -> Float[Array, "*n 3 3"]:
    """Return a @ b for many small matrices."""
    # XLA fuses the sum with its neighbours. Batched dots of this size are slow, and the derivative
    # of a chain of them hangs XLA's CPU compiler (jaxlib 0.10).
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def rotate(a: Float[Array, "*n 3 3"], vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Return a @ vector for many small matrices."""
    return (a * vectors[..., None, :]).sum(-1)


def _angle_and_cross(vectors: Float[Array, "*n 3"]) -> tuple[Array, Array, Array]:
    """Return the angle (1 where it is nearly 0), its exact square, and the cross-product matrix."""
    squared = (vectors**2).sum(-1)[..., None, None]
    # the unused branch of a `where` must not divide by zero, or the derivative is NaN
    angle = jnp.sqrt(jnp.where(squared < 1e-6, 1.0, squared))
    x, y, z = jnp.moveaxis(vectors, -1, 0)
    zero = jnp.zeros_like(x)
    rows = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    return angle, squared, rows.reshape(*vectors.shape, 3)
