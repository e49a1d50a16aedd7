"""Ahead-of-time compilation of the training step for a topology that is not attached."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.experimental import topologies

from omfa_jax.core.errors import OmfaError, format_install_hint
from omfa_jax.models import get_vae_shapes
from omfa_jax.parallel.gpu_targets import GPU_TARGETS
from omfa_jax.parallel.mesh import make_mesh
from omfa_jax.parallel.mesh_resolution import resolve_mesh
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES
from omfa_jax.parallel.topology import Topology
from omfa_jax.planning.hlo_collectives import CollectiveTraffic, parse_collectives
from omfa_jax.planning.job import TrainingJob
from omfa_jax.train.aot_step import AotStep, make_aot_step, make_aot_vae_step
from omfa_jax.train.network import divide_network

# XLA's compilation effort, -1 to 1, in jax 0.10, and its level in jax 0.12: at the least SDXL
# compiles seven times faster for TPUs and plans 3% more memory
LEAST_EFFORT = {"jax_exec_time_optimization_effort": -1.0, "jax_optimization_level": "O1"}
INSTALL = {
    "tpu": format_install_hint("tpu"),
    "cuda": "pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cudnn-cu12 (jax's own version)",
}


@dataclass(frozen=True)
class CompiledStats:
    """The compiler's figures for one device: memory, and traffic of one step by collective.

    `seconds` is the compile time. `argument_bytes` are state and batch, `temporary_bytes` all else;
    `peak_bytes` is the compiler's planned maximum. `text` is the optimised program's.
    """

    seconds: float
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    traffic: dict[str, CollectiveTraffic]
    text: str = field(default="", repr=False)


def describe_devices(topology: Topology) -> list[Any]:
    """Return a topology's devices, described for the compiler; its plugin must be installed."""
    platform, chip = topology.platform, topology.chip_name
    if topology.own_chip is not None:
        raise OmfaError(
            f"--compile has no compiler target for {topology.name}, which a file describes: drop"
            " --compile for the plan by formula"
        )
    if platform == "tpu":
        options: dict[str, Any] = {"topology_name": f"{chip}:{'x'.join(map(str, topology.torus))}"}
        # without it libtpu describes a v4 chip's two TensorCores as two devices
        if chip == "v4":
            options["chip_config_name"] = "megacore"
        if topology.slices > 1:
            options["num_slices"] = topology.slices
        # libtpu supposes four chips a host
        if topology.chips == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
    elif chip in GPU_TARGETS:
        options = {
            "topology": f"1x{topology.devices // topology.group}x{topology.group}",
            "target_config": GPU_TARGETS[chip].to_textproto(),
        }
    else:
        raise OmfaError(
            f"--compile has no compiler target for {chip}: drop --compile for the plan by formula"
        )
    try:
        described = topologies.get_topology_desc(platform=platform, **options)
    except Exception as error:  # PJRT plugins raise various types
        raise OmfaError(
            f"--compile needs the compiler for {platform}: {INSTALL[platform]}"
            f" ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    return list(described.devices)


def describe_compiler_error(error: Exception) -> OmfaError:
    """Return one line on a compiler's failure: what it says first, and the layer it names."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:
        match = re.search(r"Ran out of memory[^\n]*", text)
        return OmfaError(f"does not fit: {match[0] if match else text.splitlines()[0]}")
    layer = re.search(r'op_name="([^"]*)"', text)
    first = (text.splitlines() or [type(error).__name__])[0][:200]
    return OmfaError(
        f"XLA's compiler failed: {first}{f' (layer {layer[1]})' if layer else ''}; the plan by"
        " formula above stands. Try another config.train.remat or batch size, an XLA_FLAGS that"
        " avoids the operation, or another version of jax"
    )


def make_job_step(job: TrainingJob, devices: list[Any]) -> AotStep:
    """Return the step of a job, to be lowered for described (or real) devices."""
    if job.crop_px and job.vae:
        shapes = get_vae_shapes(job.vae)
        mesh = resolve_mesh(job.mesh, len(devices), REPLICATED_RULES, shapes).settings
        return make_aot_vae_step(
            job.diffusion,
            job.vae,
            job.train,
            make_mesh(mesh, devices),
            crop_px=job.crop_px,
            decoder_only=job.decoder_only,
        )
    divided = divide_network(job.diffusion, job.unet, job.mesh, len(devices))
    vae = job.vae if job.encodes else None
    mesh = make_mesh(divided.settings, devices)
    return make_aot_step(job.diffusion, job.unet, job.train, mesh, vae=vae)


@contextlib.contextmanager
def compile_at_least_effort() -> Iterator[None]:
    """Let XLA compile as fast as it can, with whichever setting this version of jax has."""
    name = next((name for name in LEAST_EFFORT if hasattr(jax.config, name)), None)
    if name is None:
        yield
        return
    before = getattr(jax.config, name)
    jax.config.update(name, LEAST_EFFORT[name])
    try:
        yield
    finally:
        jax.config.update(name, before)


def compile_step(job: TrainingJob, devices: list[Any]) -> CompiledStats:
    """Compile `job`'s training step for described (or real) devices without running it.

    OmfaError for a step that does not fit a TPU's memory, and for whatever else the compiler says.
    """
    start = time.perf_counter()
    try:
        with compile_at_least_effort():
            compiled = make_job_step(job, devices).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        raise describe_compiler_error(error) from error
    memory: Any = compiled.memory_analysis()
    # donated state: those outputs reuse the arguments' memory and must not count twice
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    text = compiled.as_text() or ""
    return CompiledStats(
        seconds=time.perf_counter() - start,
        argument_bytes=arguments,
        temporary_bytes=temporary,
        peak_bytes=memory.peak_memory_in_bytes or arguments + temporary + outputs,
        traffic=parse_collectives(text),
        text=text,
    )
