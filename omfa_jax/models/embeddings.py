"""Sinusoidal embeddings of timesteps and sizes, and the MLP that follows them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from omfa_jax.models.compute import Compute
from omfa_jax.models.layers import dense


def sinusoidal_embedding(values: Num[Array, "..."], dim: int) -> Float[Array, "... dim"]:
    """Return cosines, then sines, of `values` at dim / 2 frequencies from 1 down to about 1e-4.

    Frequencies are 10000^(-i / half), so the lowest is one step above 1e-4 (diffusers'
    freq_shift = 0). All is float32: a timestep near 1000 in bfloat16 is off by several radians.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = values.astype(jnp.float32)[..., None] * frequencies
    # cosines first, as SDXL's config asks of diffusers (flip_sin_to_cos)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers with a SiLU in between."""

    features: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
        x = dense(self.features, "linear_1", self.compute)(x)
        return dense(self.features, "linear_2", self.compute)(jax.nn.silu(x))
