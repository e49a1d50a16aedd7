"""The held-out loss of a model on a records folder: which split, which encoder, which mesh."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.compile_notice import CompilationNotice
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.pipeline.grain_pipeline import make_eval_iterator
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.evals.heldout_loss import (
    HeldOutLoss,
    HeldOutSettings,
    get_global_batch_size,
    make_heldout_batches,
    make_heldout_loss_fn,
)
from omfa_jax.models import encode
from omfa_jax.parallel.global_arrays import get_data_shard, put_global
from omfa_jax.parallel.mesh import make_replicated_sharding
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.train.network import get_network_shapes, make_sharded_network
from omfa_jax.weights.omfa_model import Model

SPLITS = ("val", "test")


def find_heldout_split(records: str, name: str) -> str:
    """Return the split to evaluate on: the one asked for, else val, else test."""
    splits = read_manifest(records)["splits"]
    found = name or next((split for split in SPLITS if split in splits), "")
    if found not in splits:
        raise OmfaError(
            f"{records} has no split {found or 'val or test'!r} to evaluate on (it has"
            f" {', '.join(splits)}): set config.eval.split, or config.eval.every_steps=0"
        )
    return found


def get_unet_shardings(model: Model, mesh: Mesh) -> Any:
    """Return the shardings that training gives the model's UNet on `mesh`."""
    shapes = get_network_shapes(model.settings, model.unet_config)
    return make_param_shardings(UNET_RULES, shapes, mesh)


def make_heldout_loss(
    model: Model,
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
    shard, shards = get_data_shard(mesh)
    apply = make_sharded_network(
        model.settings, model.unet_config, mesh, dtype=dtype, attention=attention, remat="none"
    )
    read = make_eval_iterator(
        pipeline,
        split=split,
        batch_size=get_global_batch_size(mesh),
        shard=shard,
        shards=shards,
        limit=measure.examples,
    )
    # remat is off above: there is no backward pass to save memory for
    has_images = read_manifest(pipeline.records)["kind"] == "images"
    batches = make_heldout_batches(read, make_encoder(model) if has_images else None)
    loss = make_heldout_loss_fn(model.settings, measure, apply, mesh, shardings, batches)
    prompts = put_global(
        model.prompts, jax.tree.map(lambda _: make_replicated_sharding(mesh), model.prompts)
    )
    # parameters stay an argument: a run evaluates its EMA again and again with one program
    return lambda params: loss(params, prompts)


def measure_model_loss(
    model: Model,
    pipeline: PipelineSettings,
    split: str,
    measure: HeldOutSettings,
    mesh: Mesh,
    *,
    dtype: str,
    attention: str = "auto",
) -> HeldOutLoss:
    """Return the held-out loss of a loaded model on `split`; every process must call it."""
    shardings = get_unet_shardings(model, mesh)
    compute_loss = make_heldout_loss(
        model, pipeline, split, measure, mesh, shardings, dtype=dtype, attention=attention
    )
    return compute_loss(put_global(model.unet_params, shardings))


def write_loss(path: AnyPath, loss: HeldOutLoss, facts: Mapping[str, Any]) -> None:
    """Write the loss, its standard error and `facts` (checkpoint, data, seed) as JSON."""
    content = {
        **facts,
        "examples": len(loss.keys),
        "timesteps": list(loss.timesteps),
        "standard_error": loss.standard_error,
        **loss.to_scalars(),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def make_encoder(model: Model) -> Callable[[Any], np.ndarray]:
    """Return the VAE's encoder on this process's first device, as `omfa data latents` encodes."""
    # one device: the images are encoded once, and the batch size must not depend on the mesh
    vae = jax.device_put(model.vae_params, jax.local_devices()[0])
    run = jax.jit(lambda params, images: encode(model.vae_config, params, images))
    notice = CompilationNotice("the VAE's encoder")

    def encode_images(images: Any) -> np.ndarray:
        with notice(images.shape):
            return np.asarray(run(vae, images))

    return encode_images
