"""The held-out loss of a model on a records folder: which split, which encoder, which mesh."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.pipeline import eval_batches
from omfa_jax.data.schema import read_manifest
from omfa_jax.data.settings import PipelineSettings
from omfa_jax.evals.heldout import (
    HeldOutLoss,
    HeldOutSettings,
    global_rows,
    held_out,
    held_out_batches,
)
from omfa_jax.models import encode
from omfa_jax.parallel.feed import data_shard, place
from omfa_jax.parallel.mesh import replicated
from omfa_jax.parallel.rules import UNET_RULES, param_shardings
from omfa_jax.train.network import make_sharded_network, network_shapes
from omfa_jax.weights.bundle import Bundle

SPLITS = ("val", "test")


def find_heldout_split(records: str, asked: str) -> str:
    """Return the split to evaluate on: the one asked for, else val, else test."""
    splits = read_manifest(records)["splits"]
    found = asked or next((name for name in SPLITS if name in splits), "")
    if found not in splits:
        raise OmfaError(
            f"{records} has no split {found or 'val or test'!r} to evaluate on (it has"
            f" {', '.join(splits)}): set config.eval.split, or config.eval.every_steps=0"
        )
    return found


def get_unet_shardings(bundle: Bundle, mesh: Mesh) -> Any:
    """Return the shardings that training gives the bundle's UNet on `mesh`."""
    shapes = network_shapes(bundle.settings, bundle.unet_config)
    return param_shardings(UNET_RULES, shapes, mesh)


def make_heldout_loss(
    bundle: Bundle,
    pipeline: PipelineSettings,
    split: str,
    measure: HeldOutSettings,
    mesh: Mesh,
    shardings: Any,
    *,
    dtype: str,
    attention: str = "auto",
) -> Callable[[Any], HeldOutLoss]:
    """Return the held-out loss as a function of UNet parameters with the given shardings.

    The examples are read here, once, and images are encoded here too.
    """
    shard, shards = data_shard(mesh)
    apply = make_sharded_network(
        bundle.settings, bundle.unet_config, mesh, dtype=dtype, attention=attention, remat="none"
    )
    read = eval_batches(
        pipeline,
        split=split,
        batch_size=global_rows(mesh),
        shard=shard,
        shards=shards,
        limit=measure.examples,
    )
    has_images = read_manifest(pipeline.records)["kind"] == "images"
    batches = held_out_batches(read, make_encoder(bundle) if has_images else None)
    loss = held_out(bundle.settings, measure, apply, mesh, shardings, batches)
    prompts = place(bundle.prompts, jax.tree.map(lambda _: replicated(mesh), bundle.prompts))
    return lambda params: loss(params, prompts)


def make_encoder(bundle: Bundle) -> Callable[[Any], np.ndarray]:
    """Return the VAE's encoder on this process's first device, as `omfa data latents` encodes."""
    vae = jax.device_put(bundle.vae_params, jax.local_devices()[0])
    run = jax.jit(lambda params, images: encode(bundle.vae_config, params, images))
    return lambda images: np.asarray(run(vae, images))
