"""The cost of a training run, as its log reports it: parameters and FLOPs of an example."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.models import VAEConfig
from omfa_jax.parallel.hardware import find_chip
from omfa_jax.planning.flops import count_network_flops, count_vae_flops
from omfa_jax.train.monitoring.mfu import RunCost
from omfa_jax.train.network import get_network_shapes
from omfa_jax.weights.omfa_model import Model


def compute_unet_cost(
    model: Model, batch_size: int, *, encodes: bool, devices: Sequence[Any] = ()
) -> RunCost:
    """Return the network's size and the FLOPs of a training example on the model's canvas.

    `encodes`: the step encodes the example's images, three components and a pose map. MFU refers to
    the peak of `devices`, which run the step; without them only the sizes are known.
    """
    # the table's own length: models without a text encoder have fewer than 77 tokens
    tokens = model.prompts["context"].shape[1]
    run = count_network_flops(model.settings, model.unet_config, text_tokens=tokens)
    leaves = jax.tree.leaves(get_network_shapes(model.settings, model.unet_config))
    sizes = dict(zip(COMPONENTS, model.settings.slots_px, strict=True))
    images = [*sizes.values(), sizes["person"]] if encodes else []
    frozen = sum(count_vae_flops(model.vae_config, *size)[0].total.forward for size in images)
    params = sum(math.prod(leaf.shape) for leaf in leaves)
    return _make_cost(params, sum(part.total.step for part in run), batch_size, devices, frozen)


def compute_vae_cost(
    vae_config: VAEConfig,
    crop_px: int,
    batch_size: int,
    *,
    decoder_only: bool,
    devices: Sequence[Any] = (),
) -> RunCost:
    """Return the cost of a VAE, or of its decoder alone, on crops of an example's four images."""
    encoder, decoder = (part.total for part in count_vae_flops(vae_config, crop_px, crop_px))
    images = len(COMPONENTS) + 1
    if not decoder_only:
        params, step = encoder.params + decoder.params, encoder.step + decoder.step
        return _make_cost(params, images * step, batch_size, devices)
    frozen = images * encoder.forward
    return _make_cost(decoder.params, images * decoder.step, batch_size, devices, frozen)


def _make_cost(
    params: int, flops: float, batch_size: int, devices: Sequence[Any], frozen: float = 0.0
) -> RunCost:
    # an unknown device has no peak, and the log then no MFU: better than a wrong one
    chip = find_chip(devices[0].device_kind) if devices else None
    return RunCost(
        params=params,
        flops_per_example=float(flops),
        batch_size=batch_size,
        devices=len(devices) or 1,
        peak_flops=chip.bf16_flops if chip else None,
        frozen_flops_per_example=float(frozen),
    )
