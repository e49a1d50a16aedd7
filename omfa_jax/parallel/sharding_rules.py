"""Sharding rules: an ordered table from parameter names to mesh axes.

The first match wins; a weight that no row matches is an error. Axes apply to the trailing
dimensions, so that a stack of layers, with one more leading dimension, needs no separate row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import find_first_match, flatten, unflatten
from omfa_jax.parallel.mesh import MESH_AXES

Rules = Sequence[tuple[str, tuple[str | None, ...]]]
# axes that rules may shard weights over
WEIGHT_AXES = ("fsdp", "tensor")

UNET_RULES: Rules = (
    # row-parallel: tensor shards their input, which the column-parallel layer before left sharded
    (r"/(to_out\.0|net\.2)/kernel$", ("tensor", "fsdp")),
    (r"/attn\d/to_[qkv]/kernel$", ("fsdp", "tensor")),
    (r"/(proj|proj_in|proj_out|time_emb_proj|linear_\d)/kernel$", ("fsdp", "tensor")),
    # convolution kernels are (h, w, in, out); conv_in and conv_out have few channels on one side
    (r"(^|/)conv_in/kernel$", (None, None, None, "fsdp")),
    (r"(^|/)conv_out/kernel$", (None, None, "fsdp", None)),
    (r"/(conv\d?|conv_shortcut)/kernel$", (None, None, "fsdp", "tensor")),
    (r"/(bias|scale)$", ()),
)
"""UNet: every matrix over fsdp; attention, feed-forward and resnet kernels also over tensor."""

REPLICATED_RULES: Rules = ((r"", ()),)
"""Every weight replicated: for the VAE (84 M parameters), which is usually frozen."""


def match_partition_spec(rules: Rules, path: tuple[str, ...], shape: Sequence[int], mesh: Any):
    """Return (PartitionSpec, pattern) of one weight; uses `mesh.shape` only.

    JAX shards a dimension evenly or not at all. If fsdp does not divide the dimension in its row,
    it moves to the largest dimension that it divides and tensor does not shard: a layer gathers the
    full weight, so any dimension works. tensor stays in its row's dimension or is dropped,
    because it splits the layer's arithmetic. `compute_sharding_coverage` reports what stays
    replicated.
    """
    name = "/".join(path)
    match = find_first_match(rules, name)
    if match is None:
        raise OmfaError(f"no sharding rule matches weight {name!r} of shape {tuple(shape)}")
    pattern, axes = match
    if len(axes) > len(shape):
        raise OmfaError(f"sharding rule {pattern!r} has {len(axes)} axes, {name!r} {len(shape)}")
    # a stack of layers is scanned one at a time: sharding that dimension would gather in every step
    first = len(shape) - len(axes)
    aligned = (None,) * first + tuple(axes)
    spec_axes = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(aligned, shape, strict=True)
    ]
    if "fsdp" in axes and "fsdp" not in spec_axes:
        free = [
            index
            for index in range(first, len(shape))
            if shape[index] % mesh.shape["fsdp"] == 0
            and (spec_axes[index] is None or mesh.shape[spec_axes[index]] == 1)
        ]
        if free:
            spec_axes[max(free, key=lambda index: shape[index])] = "fsdp"
    # without trailing Nones specs of equal meaning compare equal
    while spec_axes and spec_axes[-1] is None:
        spec_axes.pop()
    return PartitionSpec(*spec_axes), pattern


def make_param_shardings(rules: Rules, params: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Return the NamedShardings of a tree of arrays or ShapeDtypeStructs."""
    return unflatten(
        {
            path: NamedSharding(mesh, match_partition_spec(rules, path, leaf.shape, mesh)[0])
            for path, leaf in flatten(params)
        }
    )


def match_state_shardings(
    tree: Any, param_sharding: Mapping[str, Any], replicated: NamedSharding
) -> Any:
    """Return shardings for a state tree with parameter-shaped subtrees (optimizer moments, EMA).

    A leaf whose path ends in a parameter's path and has its dimensions gets that parameter's
    sharding; every other leaf (step counters) gets `replicated`.
    """
    table = dict(flatten(param_sharding))
    depth = max(map(len, table), default=0)

    def sharding(path, leaf):
        names = tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        # the longest suffix first: a parameter's path may end in a shorter one's
        for length in range(min(depth, len(names)), 0, -1):
            found = table.get(names[-length:])
            if found is not None and len(found.spec) <= len(leaf.shape):
                return found
        return replicated

    return jax.tree_util.tree_map_with_path(sharding, tree)


@dataclass(frozen=True)
class ShardingCoverage:
    """Bytes of a model's weights: in total, and on one device.

    `sharded_bytes` maps each axis to the bytes that it shards, `missed_bytes` to those that the
    rules assign to it and whose dimensions it does not divide. Axes of size 1 are left out.
    """

    total_bytes: int
    local_bytes: int
    sharded_bytes: Mapping[str, int]
    missed_bytes: Mapping[str, int]

    def get_fraction(self, axis: str) -> float:
        """Return the fraction of all bytes, 0..1, that an axis of more than one device shards."""
        return self.sharded_bytes[axis] / self.total_bytes

    def format_summary(self) -> str:
        """Return a summary: "fsdp shards 99.9%"."""
        return ", ".join(
            f"{axis} shards {self.get_fraction(axis):.1%}" for axis in self.sharded_bytes
        )


def compute_sharding_coverage(
    rules: Rules, params: Mapping[str, Any], mesh: Any
) -> ShardingCoverage:
    """Return what a mesh shards of a tree of arrays or shapes; uses `mesh.shape` only."""
    axes = [axis for axis in WEIGHT_AXES if mesh.shape[axis] > 1]
    # every axis divides on a mesh of one device, so its specs are what the rules ask for
    alone = AbstractMesh((1,) * len(MESH_AXES), MESH_AXES)
    total, local = 0, 0
    cut, missed = dict.fromkeys(axes, 0), dict.fromkeys(axes, 0)
    for path, leaf in flatten(params):
        spec, _ = match_partition_spec(rules, path, leaf.shape, mesh)
        asked, _ = match_partition_spec(rules, path, leaf.shape, alone)
        size = leaf.dtype.itemsize * math.prod(leaf.shape)
        total += size
        local += size // math.prod(mesh.shape[axis] for axis in spec if axis)
        for axis in axes:
            if axis in spec:
                cut[axis] += size
            elif axis in asked:
                missed[axis] += size
    return ShardingCoverage(total, local, cut, missed)


def format_sharding_table(rules: Rules, params: Mapping[str, Any], mesh: Any) -> str:
    """Return a table with one line per weight (name, shape, spec, rule), then bytes per device."""
    lines = []
    for path, leaf in flatten(params):
        spec, pattern = match_partition_spec(rules, path, leaf.shape, mesh)
        lines.append(f"{'/'.join(path):96} {leaf.shape!s:22} {spec!s:44} {pattern}")
    found = compute_sharding_coverage(rules, params, mesh)
    lines.append(
        f"total {found.total_bytes / 1e9:.3f} GB,"
        f" {found.local_bytes / 1e9:.3f} GB on each of {mesh.size}"
        f" devices{'; ' if found.sharded_bytes else ''}{found.format_summary()}"
    )
    return "\n".join(lines)
