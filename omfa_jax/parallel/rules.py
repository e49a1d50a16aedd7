"""The sharding rules: one ordered table from parameter names to mesh axes.

Axes are written for the trailing dimensions, so that a stack of layers (one dimension more, in
front) needs no row of its own. First match wins; a weight that no row matches is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import build, first_match, walk

Rules = Sequence[tuple[str, tuple[str | None, ...]]]

UNET_RULES: Rules = (
    # row-parallel: their input is what the column-parallel layer before them cut
    (r"/(to_out\.0|net\.2)/kernel$", ("tensor", "fsdp")),
    (r"/attn\d/to_[qkv]/kernel$", ("fsdp", "tensor")),
    (r"/(proj|proj_in|proj_out|time_emb_proj|linear_\d)/kernel$", ("fsdp", "tensor")),
    # 3x3 and 1x1 convolutions, h w in out; conv_in and conv_out keep their thin side whole
    (r"(^|/)conv_in/kernel$", (None, None, None, "fsdp")),
    (r"(^|/)conv_out/kernel$", (None, None, "fsdp", None)),
    (r"/(conv\d?|conv_shortcut)/kernel$", (None, None, "fsdp", "tensor")),
    (r"/(bias|scale)$", ()),
)
"""Rules of the UNet: every matrix over fsdp, attention and feed-forward also over tensor."""

REPLICATED_RULES: Rules = ((r"", ()),)
"""Every weight whole on every device (the VAE: 84 M parameters, frozen)."""


def partition_spec(rules: Rules, path: tuple[str, ...], shape: Sequence[int], mesh: Mesh):
    """Return (PartitionSpec, pattern) of one weight.

    An axis that does not divide its dimension is left out (small presets on wide meshes).
    """
    name = "/".join(path)
    match = first_match(rules, name)
    if match is None:
        raise OmfaError(f"no sharding rule matches weight {name!r} of shape {tuple(shape)}")
    pattern, axes = match
    if len(axes) > len(shape):
        raise OmfaError(f"sharding rule {pattern!r} has {len(axes)} axes, {name!r} {len(shape)}")
    aligned = (None,) * (len(shape) - len(axes)) + tuple(axes)
    fitting = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(aligned, shape, strict=True)
    ]
    while fitting and fitting[-1] is None:
        fitting.pop()
    return PartitionSpec(*fitting), pattern


def param_shardings(rules: Rules, params: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Return a tree of NamedShardings for a tree of arrays or ShapeDtypeStructs."""
    return build(
        {
            path: NamedSharding(mesh, partition_spec(rules, path, leaf.shape, mesh)[0])
            for path, leaf in walk(params)
        }
    )


def shardings_like(tree: Any, param_sharding: Mapping[str, Any], whole: NamedSharding) -> Any:
    """Shard a state tree that holds parameter-shaped subtrees (optimizer moments, EMA).

    A leaf whose path ends in a parameter's path, with its number of dimensions, is sharded as
    that parameter; every other leaf (step counters) is whole.
    """
    table = dict(walk(param_sharding))
    depth = max(map(len, table), default=0)

    def sharding(path, leaf):
        names = tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        for length in range(min(depth, len(names)), 0, -1):
            found = table.get(names[-length:])
            if found is not None and len(found.spec) <= len(leaf.shape):
                return found
        return whole

    return jax.tree_util.tree_map_with_path(sharding, tree)


def explain(rules: Rules, params: Mapping[str, Any], mesh: Mesh) -> str:
    """Return a line for each weight (name, shape, spec, its rule), then the bytes a device."""
    lines, total, local = [], 0, 0
    for path, leaf in walk(params):
        spec, pattern = partition_spec(rules, path, leaf.shape, mesh)
        lines.append(f"{'/'.join(path):96} {leaf.shape!s:22} {spec!s:44} {pattern}")
        here = NamedSharding(mesh, spec).shard_shape(tuple(leaf.shape))
        size = leaf.dtype.itemsize
        total += size * _count(leaf.shape)
        local += size * _count(here)
    lines.append(f"total {total / 1e9:.3f} GB, {local / 1e9:.3f} GB on each of {mesh.size} devices")
    return "\n".join(lines)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
