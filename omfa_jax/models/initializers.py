"""Random initial parameters: PyTorch's default scale for kernels, zero biases, unit norms."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from omfa_jax.core import trees
from omfa_jax.models.compute import Params

# Arrays of this many elements or more are drawn one by one, so that a sharded initialisation never
# holds all numbers on one device. Smaller ones share a draw, because XLA compiles each separately.
SHARED_DRAW_SIZE = 1 << 22


def init_params(shapes: Mapping[str, Any], key: PRNGKeyArray) -> Params:
    """Return float32 arrays for a tree of shapes, as a function of `key` alone.

    Kernels are uniform in +-1 / sqrt(fan_in), PyTorch's default for Linear and Conv2d (He et al.,
    arXiv 1502.01852, with a = sqrt(5)); scales are 1 and biases 0.
    """
    leaves = {path: tuple(leaf.shape) for path, leaf in trees.flatten(shapes)}
    # the tree's order fixes which numbers a kernel gets
    kernels = [path for path in leaves if path[-1] == "kernel"]
    pooled = [path for path in kernels if math.prod(leaves[path]) < SHARED_DRAW_SIZE]
    pool_key, key = jax.random.split(key)
    pool = _uniform(pool_key, (sum(math.prod(leaves[path]) for path in pooled),))

    params, start = {}, 0
    for path, shape in leaves.items():
        if path[-1] != "kernel":
            params[path] = jnp.ones(shape) if path[-1] == "scale" else jnp.zeros(shape)
            continue
        if math.prod(shape) < SHARED_DRAW_SIZE:
            stop = start + math.prod(shape)
            drawn = pool[start:stop].reshape(shape)
            start = stop
        else:
            drawn = _uniform(jax.random.fold_in(key, kernels.index(path)), shape)
        # the leading axis of a scanned stack counts layers and is not part of the fan-in
        fan_in = math.prod(shape[1:-1] if "transformer_blocks" in path else shape[:-1])
        params[path] = drawn / math.sqrt(fan_in)
    return trees.unflatten(params)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
