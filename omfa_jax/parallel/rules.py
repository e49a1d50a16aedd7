"""The sharding rules: one ordered table from parameter names to mesh axes.

Axes are written for the trailing dimensions, so that a stack of layers (one dimension more, in
front) needs no row of its own. First match wins; a weight that no row matches is an error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import build, first_match, walk
from omfa_jax.parallel.mesh import AXES

Rules = Sequence[tuple[str, tuple[str | None, ...]]]
# the axes that rules give to weights
WEIGHT_AXES = ("fsdp", "tensor")

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


def partition_spec(rules: Rules, path: tuple[str, ...], shape: Sequence[int], mesh: Any):
    """Return (PartitionSpec, pattern) of one weight; of `mesh` only its shape is looked at.

    JAX cuts a dimension evenly or not at all. fsdp, which does not divide the dimension of its
    row, takes the weight's largest one that it divides and tensor leaves free: a layer gathers the
    whole weight, along whichever dimension. tensor stays where its row says or is left out, for it
    cuts the layer's arithmetic. `coverage` tells what is left whole.
    """
    name = "/".join(path)
    match = first_match(rules, name)
    if match is None:
        raise OmfaError(f"no sharding rule matches weight {name!r} of shape {tuple(shape)}")
    pattern, axes = match
    if len(axes) > len(shape):
        raise OmfaError(f"sharding rule {pattern!r} has {len(axes)} axes, {name!r} {len(shape)}")
    # a stack of layers is scanned, a layer at a time: it is never cut
    first = len(shape) - len(axes)
    aligned = (None,) * first + tuple(axes)
    fitting = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(aligned, shape, strict=True)
    ]
    if "fsdp" in axes and "fsdp" not in fitting:
        free = [
            index
            for index in range(first, len(shape))
            if shape[index] % mesh.shape["fsdp"] == 0
            and (fitting[index] is None or mesh.shape[fitting[index]] == 1)
        ]
        if free:
            fitting[max(free, key=lambda index: shape[index])] = "fsdp"
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


@dataclass(frozen=True)
class Coverage:
    """What of a model's weights a mesh cuts, in bytes: all of them, and what one device holds.

    `cut` are those that each axis cuts, `missed` those that the rules give it and it does not
    divide; axes of one device are left out.
    """

    total: int
    local: int
    cut: Mapping[str, int]
    missed: Mapping[str, int]

    def share(self, axis: str) -> float:
        """Return the part of all bytes, 0..1, that an axis of more than one device cuts."""
        return self.cut[axis] / self.total

    def text(self) -> str:
        """Return it in a few words: "fsdp cuts 99.9% of it"."""
        return ", ".join(f"{axis} cuts {self.share(axis):.1%} of it" for axis in self.cut)


def coverage(rules: Rules, params: Mapping[str, Any], mesh: Any) -> Coverage:
    """Return what a mesh cuts of a tree of arrays or shapes; of `mesh` only its shape is needed."""
    axes = [axis for axis in WEIGHT_AXES if mesh.shape[axis] > 1]
    alone = AbstractMesh((1,) * len(AXES), AXES)
    total, local = 0, 0
    cut, missed = dict.fromkeys(axes, 0), dict.fromkeys(axes, 0)
    for path, leaf in walk(params):
        spec, _ = partition_spec(rules, path, leaf.shape, mesh)
        asked, _ = partition_spec(rules, path, leaf.shape, alone)
        size = leaf.dtype.itemsize * math.prod(leaf.shape)
        total += size
        local += size // math.prod(mesh.shape[axis] for axis in spec if axis)
        for axis in axes:
            if axis in spec:
                cut[axis] += size
            elif axis in asked:
                missed[axis] += size
    return Coverage(total, local, cut, missed)


def explain(rules: Rules, params: Mapping[str, Any], mesh: Any) -> str:
    """Return a line for each weight (name, shape, spec, its rule), then the bytes a device."""
    lines = []
    for path, leaf in walk(params):
        spec, pattern = partition_spec(rules, path, leaf.shape, mesh)
        lines.append(f"{'/'.join(path):96} {leaf.shape!s:22} {spec!s:44} {pattern}")
    found = coverage(rules, params, mesh)
    lines.append(
        f"total {found.total / 1e9:.3f} GB, {found.local / 1e9:.3f} GB on each of {mesh.size}"
        f" devices{'; ' if found.cut else ''}{found.text()}"
    )
    return "\n".join(lines)
