"""What a run reads and writes of a bucket or shared disk: at a start, a save and a restore."""

import math
from dataclasses import dataclass
from typing import Any

import jax

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig, get_vae_shapes
from omfa_jax.parallel.topology import Topology
from omfa_jax.train.aot_step import make_abstract_batch

DEFAULT_RATE = 1e9
"""Bytes/s that a host reads or writes, an assumption: cloud machines get 0.5 to 3 GB/s from a
bucket of their region."""
# an assumption: JPEG of quality 95; PNGs of photos take about five times as much
BYTES_PER_PIXEL = 0.25


@dataclass(frozen=True)
class StorageTraffic:
    """Bytes of a checkpoint, and of a restore and a start for each of `hosts`; `rate` in bytes/s.

    A save is written by all hosts, each its part, while training goes on. In a restore a host reads
    what its devices hold, and at a start the model folder (`weights_bytes`, of config.model.init)
    and its part of the first batch (`batch_bytes`).
    """

    hosts: int
    rate: float
    checkpoint_bytes: int
    restore_bytes: int
    weights_bytes: int
    batch_bytes: int

    @property
    def save_seconds(self) -> float:
        """Seconds to write a checkpoint."""
        return self.checkpoint_bytes / self.hosts / self.rate

    @property
    def restore_seconds(self) -> float:
        """Seconds to read a checkpoint."""
        return self.restore_bytes / self.rate

    @property
    def start_seconds(self) -> float:
        """Seconds to read what a new run needs for its first step."""
        return (self.weights_bytes + self.batch_bytes) / self.rate


def compute_storage_traffic(
    state: Any,
    local_bytes: int,
    topology: Topology,
    *,
    parts: int,
    weights_bytes: int,
    batch_bytes: int,
    rate: float,
) -> StorageTraffic:
    """Return the traffic of a run whose devices hold `local_bytes` of `state` each.

    `parts`: how many devices hold different parts of the state, which is fsdp times tensor. Those
    of a host come first in the mesh, so a host holds as many parts as it has devices, or all.
    """
    hosts = topology.hosts
    whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return StorageTraffic(
        hosts=hosts,
        rate=rate,
        checkpoint_bytes=whole,
        restore_bytes=min(whole, local_bytes * min(parts, topology.devices // hosts)),
        weights_bytes=weights_bytes,
        batch_bytes=batch_bytes // hosts,
    )


def compute_batch_bytes(diffusion: DiffusionSettings, size: int, *, pictures: bool) -> int:
    """Return the bytes of a batch as records store it: latents, or pictures."""
    if not pictures:
        shapes = make_abstract_batch(diffusion, size).values()
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)
    sizes = dict(zip(COMPONENTS, diffusion.slots_px, strict=True))
    pixels = sum(math.prod(sizes[name]) for name in (*COMPONENTS, "person"))
    return round(size * pixels * BYTES_PER_PIXEL)


def compute_vae_bytes(config: VAEConfig) -> int:
    """Return the bytes of a VAE's float32 weights."""
    return 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(get_vae_shapes(config)))
