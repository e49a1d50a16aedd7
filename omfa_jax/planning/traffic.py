"""Bytes that a device receives in a training step, by collective, in closed form."""

import math
from typing import Any

import jax

from omfa_jax.core.trees import flatten
from omfa_jax.models import UNetConfig
from omfa_jax.parallel.hardware import Chip
from omfa_jax.parallel.topology import Topology
from omfa_jax.train.settings import TrainSettings


def compute_local_bytes(tree: Any, shardings: Any) -> int:
    """Return the bytes of a tree that one device holds."""
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def compute_state_bytes(state: Any, shardings: Any) -> dict[str, int]:
    """Return the bytes that one device holds of parameters, optimizer state and EMA."""
    return {
        name: compute_local_bytes(getattr(state, name), getattr(shardings, name))
        for name in ("params", "opt_state", "ema")
    }


def compute_traffic_seconds(traffic: dict[str, int], chip: Chip) -> float:
    """Return the seconds of traffic of which no two kinds overlap: an upper bound."""
    return sum(
        moved / (chip.inter_node_bandwidth if kind.endswith(", far") else chip.intra_node_bandwidth)
        for kind, moved in traffic.items()
    )


def compute_weight_traffic(
    params: Any,
    shardings: Any,
    shape: dict[str, int],
    topology: Topology,
    train: TrainSettings,
    itemsize: int,
) -> dict[str, int]:
    """Return the bytes that a device receives for weights and gradients in a step, by collective.

    Once per microbatch a weight is gathered forward and backward in the compute dtype and its
    gradient reduce-scattered in float32 (ZeRO-3, arXiv 1910.02054). Once per step the device's
    share of the gradients is summed over data and slices.
    """
    fsdp, found = shape["fsdp"], {}
    cut = sum(
        math.prod(leaf.shape) // shape["tensor"]
        for (_, leaf), (_, sharding) in zip(flatten(params), flatten(shardings), strict=True)
        if "fsdp" in sharding.spec
    )
    # a device has 1 / fsdp of each weight already and receives the rest
    share = cut * train.grad_accum_steps * (fsdp - 1) / fsdp
    # fsdp and tensor are the mesh's inner axes: they leave a node only if they are larger than it
    where = ", far" if fsdp * shape["tensor"] > topology.group else ""
    if fsdp > 1:
        found[f"all-gather of weights{where}"] = round(2 * share * itemsize)
        found[f"reduce-scatter of gradients{where}"] = round(share * 4)
    own = compute_local_bytes(params, shardings)
    # a ring all-reduce is a reduce-scatter and an all-gather: each byte arrives twice
    inner = shape["data"] * fsdp * shape["tensor"]
    for axis, far in (("data", inner > topology.group), ("slice", True)):
        count = shape[axis]
        if count > 1:
            kind = f"all-reduce of gradients over {axis}{', far' if far else ''}"
            found[kind] = round(2 * own * (count - 1) / count)
    return found


def compute_tensor_traffic(
    canvas: tuple[int, ...],
    config: UNetConfig,
    train: TrainSettings,
    shape: dict[str, int],
    rows: int,
    itemsize: int,
) -> dict[str, int]:
    """Return the bytes a device receives in tensor parallelism's all-reduces, three per block.

    One after each row-parallel layer: the two attentions' outputs and the feed-forward's.
    """
    count = shape["tensor"]
    if count == 1:
        return {}
    height, width = canvas[:2]
    moved = 0
    for level, channels in enumerate(config.block_channels):
        blocks = config.transformer_depth[level] * (2 * config.layers_per_block + 1)
        # the middle block
        blocks += config.transformer_depth[-1] if level == len(config.block_channels) - 1 else 0
        tokens = -(-height // 2**level) * -(-width // 2**level)
        moved += blocks * 3 * tokens * channels
    # forward and backward, and the forward pass once more where blocks are recomputed
    passes = 3 if train.remat in ("block", "full") else 2
    size = moved * passes * rows * train.grad_accum_steps * itemsize
    return {"all-reduce of activations": round(2 * size * (count - 1) / count)}
