"""Memory, FLOPs, traffic and step time of training the VAE (config.objective="autoencoder")."""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.models import VAEConfig, decode, encode_posterior, get_vae_shapes, init_vae
from omfa_jax.parallel.mesh import BATCH_AXES, MESH_AXES, check_batch_size
from omfa_jax.parallel.mesh_resolution import make_abstract_mesh, resolve_mesh
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES
from omfa_jax.parallel.topology import Topology
from omfa_jax.planning.job import Plan, TrainingJob
from omfa_jax.planning.memory import sum_residual_bytes
from omfa_jax.planning.run_cost import compute_vae_cost
from omfa_jax.planning.storage_traffic import (
    compute_batch_bytes,
    compute_storage_traffic,
    compute_vae_bytes,
)
from omfa_jax.planning.traffic import (
    compute_state_bytes,
    compute_traffic_seconds,
    compute_weight_traffic,
)
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.state import get_state_shardings, make_abstract_state
from omfa_jax.train.vae_run import check_crop
from omfa_jax.weights.vae_fingerprint import ENCODER


def make_vae_plan(
    job: TrainingJob, topology: Topology, *, efficiency: float, usable: float, rate: float
) -> Plan:
    """Return the plan of a run that trains the VAE; arguments and errors as `plan.make_plan`.

    Every device holds the VAE in full, and the batch is divided over all of them.
    """
    train, vae = job.train, job.vae
    if vae is None:
        raise OmfaError("config.objective=autoencoder needs config.model.vae, a preset to train")
    check_crop(job.crop_px, job.diffusion)
    divided = resolve_mesh(job.mesh, topology.devices, REPLICATED_RULES, get_vae_shapes(vae))
    shape = {axis: getattr(divided.settings, axis) for axis in MESH_AXES}
    mesh = make_abstract_mesh(shape)
    check_batch_size(mesh, train.batch_size, train.grad_accum_steps)
    parts = math.prod(shape[axis] for axis in BATCH_AXES)
    rows = train.batch_size // parts // train.grad_accum_steps

    def start() -> Any:
        params = init_vae(vae, jax.random.key(0))
        left = ENCODER if job.decoder_only else ()
        return {name: part for name, part in params.items() if name not in left}

    state = make_abstract_state(
        start, make_optimizer(train.optimizer, train.steps), train.ema_decay
    )
    shardings = get_state_shardings(state, REPLICATED_RULES, mesh)
    local = compute_state_bytes(state, shardings)
    # garment, person, face and pose map of an example, a crop of each
    crops = rows * (len(COMPONENTS) + 1)
    kept = count_vae_residuals(vae, (crops, job.crop_px), train.compute_dtype, job.decoder_only)
    gradients = local["params"]
    memory = {
        "parameters": local["params"],
        "optimizer": local["opt_state"],
        "ema": local["ema"],
        "activations or gradients": max(kept, gradients),
        "accumulated gradients": gradients if train.grad_accum_steps > 1 else 0,
        "frozen encoder": compute_vae_bytes(vae) - local["params"] if job.decoder_only else 0,
    }
    cost = compute_vae_cost(vae, job.crop_px, train.batch_size, decoder_only=job.decoder_only)
    model_flops = cost.flops_per_example * train.batch_size
    frozen = cost.frozen_flops_per_example * train.batch_size
    traffic = compute_weight_traffic(
        state.params,
        shardings.params,
        shape,
        topology,
        train,
        jnp.dtype(train.compute_dtype).itemsize,
    )
    chip = topology.chip
    return Plan(
        topology=topology,
        usable=usable,
        mesh=shape,
        cut={},
        notes=divided.notes,
        # neither is a setting of the VAE
        remat="none",
        attention="xla",
        params=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        memory=memory,
        model_flops=model_flops,
        frozen_flops=frozen,
        executed_flops=model_flops + frozen,
        traffic=traffic,
        compute_seconds=(model_flops + frozen) / (topology.devices * chip.bf16_flops * efficiency),
        traffic_seconds=compute_traffic_seconds(traffic, chip),
        storage=compute_storage_traffic(
            {"params": state.params, "opt_state": state.opt_state, "ema": state.ema},
            sum(local.values()),
            topology,
            parts=1,
            weights_bytes=compute_vae_bytes(vae) if job.decoder_only else 0,
            batch_bytes=compute_batch_bytes(job.diffusion, train.batch_size, pictures=True),
            rate=rate,
        ),
    )


@lru_cache(maxsize=16)
def count_vae_residuals(
    config: VAEConfig, crops: tuple[int, int], dtype: str, decoder_only: bool
) -> int:
    """Return the bytes of activations that (number, side) crops keep for the backward pass."""
    count, side = crops
    params = get_vae_shapes(config)

    def backward(params: Any, images: jax.Array) -> Any:
        trained = {name: params[name] for name in params if name not in ENCODER}

        def run(part: Any) -> jax.Array:
            whole = {**params, **part}
            mean, logvar = encode_posterior(config, whole, images, dtype=dtype)
            return decode(config, whole, mean + jnp.exp(logvar), dtype=dtype)

        return jax.vjp(run, trained if decoder_only else params)[1]

    kept = jax.eval_shape(backward, params, Shape((count, side, side, 3), jnp.float32))
    return sum_residual_bytes(kept, params, jnp.dtype(dtype))
