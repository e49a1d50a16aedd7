"""FSDP: how a weight that is cut over the fsdp axis becomes whole where a layer uses it.

Inside the step's `shard_map` every device holds its parts of the weights. A layer's hook gathers
the whole weight, in the layer's own type; the gradient of that gather sums the devices' gradients
and leaves each device its part (a reduce-scatter), in float32. So the traffic is what ZeRO-3
(arXiv 1910.02054) says, on every backend, and not what a compiler makes of hints.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from omfa_jax.core.trees import walk
from omfa_jax.models.compute import Fetch
from omfa_jax.parallel.rules import Rules, partition_spec


def weight_fetcher(rules: Rules, params: Mapping[str, Any], mesh: Mesh) -> Fetch | None:
    """Return `fetch(path, part, dtype)` for a network whose `params` lie as `rules` say.

    None where nothing is cut over fsdp. `params` may be shapes. A stacked weight may come whole or
    a layer at a time: axes are counted from the last one.
    """
    if mesh.shape["fsdp"] == 1:
        return None
    axes = {}
    for path, leaf in walk(params):
        spec, _ = partition_spec(rules, path, leaf.shape, mesh)
        cut = [index for index, axis in enumerate(spec) if axis == "fsdp"]
        axes[path] = cut[0] - len(leaf.shape) if cut else None

    def fetch(path: tuple[str, ...], part: jax.Array, dtype: Any) -> jax.Array:
        axis = axes[path]
        if axis is None:
            return part
        return gathered(part, jnp.dtype(dtype).name, part.ndim + axis)

    return fetch


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(part: jax.Array, dtype: str, axis: int) -> jax.Array:
    """Return the whole of an array cut along `axis` over fsdp, as `dtype`."""
    return jax.lax.all_gather(part.astype(dtype), "fsdp", axis=axis, tiled=True)


def _gathered_forward(part: jax.Array, dtype: str, axis: int) -> tuple[jax.Array, None]:
    return gathered(part, dtype, axis), None


def _gathered_backward(dtype: str, axis: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    whole = gradient.astype(jnp.float32)
    return (jax.lax.psum_scatter(whole, "fsdp", scatter_dimension=axis, tiled=True),)


gathered.defvjp(_gathered_forward, _gathered_backward)
