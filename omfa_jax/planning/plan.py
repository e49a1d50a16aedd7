"""Memory, FLOPs, traffic and step time of a training run on a given topology, by formula."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import init_unet
from omfa_jax.models.compute import REMAT_POLICIES
from omfa_jax.parallel.attention_kernels import select_attention_kernel
from omfa_jax.parallel.hardware import USABLE_FRACTION
from omfa_jax.parallel.mesh import BATCH_AXES, MESH_AXES, MeshSettings, check_batch_size
from omfa_jax.parallel.mesh_resolution import make_abstract_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES
from omfa_jax.parallel.topology import Topology
from omfa_jax.planning.flop_counter import FlopCounter
from omfa_jax.planning.flops import count_unet_flops
from omfa_jax.planning.frozen_vae import compute_encoding_bytes, count_encoding_flops
from omfa_jax.planning.job import Plan, TrainingJob
from omfa_jax.planning.memory import (
    compute_activation_bytes,
    compute_recompute_bytes,
    find_largest_layer,
)
from omfa_jax.planning.storage_traffic import (
    DEFAULT_RATE,
    compute_batch_bytes,
    compute_storage_traffic,
    compute_vae_bytes,
)
from omfa_jax.planning.traffic import (
    compute_state_bytes,
    compute_tensor_traffic,
    compute_traffic_seconds,
    compute_weight_traffic,
)
from omfa_jax.planning.vae_plan import make_vae_plan
from omfa_jax.train.network import divide_network
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.state import get_state_shardings, make_abstract_state
from omfa_jax.weights.text_encoders import TEXT_TOKENS

# fraction of a chip's peak that computing reaches; an assumption until a step has been timed on it
DEFAULT_EFFICIENCY = 0.5


def make_plan(
    job: TrainingJob,
    topology: Topology,
    *,
    efficiency: float = DEFAULT_EFFICIENCY,
    usable: float = USABLE_FRACTION,
    rate: float = DEFAULT_RATE,
) -> Plan:
    """Return the plan of `job`; a mesh or batch size that does not divide is an OmfaError.

    `efficiency` is the fraction of a chip's peak that computing reaches, `usable` the fraction of
    its memory that programs get, both 0..1; `rate` is what a host reads and writes, in bytes/s.
    """
    if job.crop_px:
        return make_vae_plan(job, topology, efficiency=efficiency, usable=usable, rate=rate)
    train, config = job.train, job.unet
    if job.diffusion.reference:
        # the formulas of memory and traffic know one canvas and one UNet
        raise OmfaError(
            "`omfa plan` does not cover the reference UNet (config.model.reference=True); set it to"
            " False to plan the single UNet, or run bench/dual_vs_single.py for compiler"
            " figures of both"
        )
    divided = divide_network(job.diffusion, config, job.mesh, topology.devices)
    shape = {axis: getattr(divided.settings, axis) for axis in MESH_AXES}
    mesh = make_abstract_mesh(shape)
    check_batch_size(mesh, train.batch_size, train.grad_accum_steps)
    parts = math.prod(shape[axis] for axis in BATCH_AXES)
    # examples per device in one microbatch
    rows = train.batch_size // parts // train.grad_accum_steps
    # decides whether the scores, by far the largest activations, are ever stored
    kernel = select_attention_kernel(train.attention, topology.platform, train.compute_dtype)
    fused = {"fused_attention": kernel != "xla"}
    itemsize = jnp.dtype(train.compute_dtype).itemsize

    optimizer = make_optimizer(train.optimizer, train.steps)
    state = make_abstract_state(
        lambda: init_unet(config, jax.random.key(0)), optimizer, train.ema_decay
    )
    shardings = get_state_shardings(state, UNET_RULES, mesh)
    local = compute_state_bytes(state, shardings)
    kept = compute_activation_bytes(
        job.diffusion, config, train, rows, text_tokens=TEXT_TOKENS, **fused
    )
    working = compute_recompute_bytes(job.diffusion, config, train, rows, **fused)
    # gathered in the compute dtype, its gradient in float32 until the reduce-scatter
    layer = find_largest_layer(state.params) // shape["tensor"]
    # the backward pass frees activations as gradients appear, so the larger of the two is the peak;
    # with microbatches a second set of gradients, the running sum, is in memory all the time
    gradients = local["params"]
    memory = {
        "parameters": local["params"],
        "optimizer": local["opt_state"],
        "ema": local["ema"],
        "activations or gradients": max(kept, gradients),
        "accumulated gradients": gradients if train.grad_accum_steps > 1 else 0,
        "a block, recomputed": working,
        "a layer's gathered weights and gradient": layer * (itemsize + 4)
        if shape["fsdp"] > 1
        else 0,
    }

    unet_bytes = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    # all of a folder is read, the VAE even where latents are stored: it has their fingerprint
    vae_bytes = compute_vae_bytes(job.vae) if job.vae else 0
    weights_bytes = job.reads_weights * (vae_bytes + job.reads_unet * unet_bytes)
    frozen = 0.0
    if job.encodes and job.vae:
        encoding = compute_encoding_bytes(job.diffusion, job.vae, rows, train.compute_dtype)
        memory["frozen VAE"] = vae_bytes
        # done before the UNet's forward pass, whose activations take the same memory later
        memory["encoding, beyond the activations"] = max(0, encoding - max(kept, gradients))
        frozen = float(count_encoding_flops(job.diffusion, job.vae) * train.batch_size)
    height, width, _ = job.diffusion.canvas.shape
    count = count_unet_flops(config, height, width, text_tokens=TEXT_TOKENS)
    model_flops = float(count.total.step * train.batch_size)
    recomputed = float(compute_recomputed_flops(count, train.remat) * train.batch_size)
    executed = model_flops + recomputed + frozen
    traffic = compute_weight_traffic(
        state.params, shardings.params, shape, topology, train, itemsize
    )
    traffic |= compute_tensor_traffic(
        job.diffusion.canvas.shape, config, train, shape, rows, itemsize
    )
    chip = topology.chip
    return Plan(
        topology=topology,
        usable=usable,
        mesh=shape,
        cut={axis: divided.coverage.get_fraction(axis) for axis in divided.coverage.sharded_bytes},
        notes=divided.notes,
        remat=train.remat,
        attention=kernel,
        params=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        memory=memory,
        model_flops=model_flops,
        frozen_flops=frozen,
        executed_flops=executed,
        traffic=traffic,
        storage=compute_storage_traffic(
            {"params": state.params, "opt_state": state.opt_state, "ema": state.ema},
            sum(local.values()),
            topology,
            parts=shape["fsdp"] * shape["tensor"],
            weights_bytes=weights_bytes,
            batch_bytes=compute_batch_bytes(job.diffusion, train.batch_size, pictures=job.encodes),
            rate=rate,
        ),
        compute_seconds=executed / (topology.devices * chip.bf16_flops * efficiency),
        traffic_seconds=compute_traffic_seconds(traffic, chip),
    )


def compute_recomputed_flops(count: FlopCounter, remat: str) -> int:
    """Return the FLOPs per example that the backward pass computes again under `remat`."""
    blocks = (count.self_attention, count.cross_attention, count.feed_forward)
    return {
        "none": 0,
        "attention": count.scores,
        "block": sum(part.forward for part in blocks),
        "full": count.total.forward,
    }[remat]


def find_lighter_remat(
    job: TrainingJob,
    topology: Topology,
    *,
    efficiency: float = DEFAULT_EFFICIENCY,
    usable: float = USABLE_FRACTION,
) -> Plan | None:
    """Return the fitting plan with the least remat; None if that is the job's own.

    None for a VAE, too, which has no remat.
    """
    if job.crop_px:
        return None
    for policy in REMAT_POLICIES[: REMAT_POLICIES.index(job.train.remat)]:
        train = dataclasses.replace(job.train, remat=policy)
        lighter_job = dataclasses.replace(job, train=train)
        made = make_plan(lighter_job, topology, efficiency=efficiency, usable=usable)
        if made.fits:
            return made
    return None


def find_fitting_overrides(
    job: TrainingJob, topology: Topology, *, usable: float = USABLE_FRACTION
) -> str | None:
    """Return the overrides that make a job fit at the least cost in time; None if none do.

    Tries fsdp over a node or slice, then more remat, then gradient accumulation; for a VAE, which
    has neither of the former, accumulation alone.
    """
    trials = [] if job.crop_px else _reduce_memory(job, topology)
    last = trials[-1] if trials else job
    # accumulation last: it gathers all weights again for each microbatch
    for parts in (2, 4, 8, 16):
        train = dataclasses.replace(last.train, grad_accum_steps=parts)
        trials.append(dataclasses.replace(last, train=train))
    for trial in trials:
        # a mesh or batch size that does not divide is not worth suggesting
        with contextlib.suppress(OmfaError):
            if make_plan(trial, topology, usable=usable).fits:
                return " ".join(format_overrides(job, trial))
    return None


def _reduce_memory(job: TrainingJob, topology: Topology) -> list[TrainingJob]:
    """Return the job with fsdp over a node or slice, then with more and more remat."""
    # within a node first: it costs fast links only, while remat costs computing
    alone = MeshSettings(data=1, fsdp=-1, allow_replicated=True)
    fsdp = divide_network(job.diffusion, job.unet, alone, topology.group).settings.fsdp
    mesh = dataclasses.replace(job.mesh, data=-1, fsdp=fsdp, tensor=1, slice=topology.slices)
    trials = [dataclasses.replace(job, mesh=mesh)]
    for policy in REMAT_POLICIES[REMAT_POLICIES.index(job.train.remat) + 1 :]:
        train = dataclasses.replace(job.train, remat=policy)
        trials.append(dataclasses.replace(trials[0], train=train))
    return trials


def format_overrides(job: TrainingJob, other: TrainingJob) -> list[str]:
    """Return the overrides that turn `job` into `other`."""
    return [
        f"--config.{group}.{field.name}={getattr(new, field.name)}"
        for group, old, new in (("mesh", job.mesh, other.mesh), ("train", job.train, other.train))
        for field in dataclasses.fields(old)
        if getattr(old, field.name) != getattr(new, field.name)
    ]
