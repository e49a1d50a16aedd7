"""The plan's second level: the real step, compiled by the real compilers for devices not here."""

import re
import time
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.hardware import GPU_TARGETS
from omfa_jax.parallel.mesh import make_mesh
from omfa_jax.parallel.pods import Pod
from omfa_jax.scaling.hlo import Moved, collectives
from omfa_jax.scaling.plan import Job
from omfa_jax.train.ahead import step_ahead
from omfa_jax.train.network import network_division

# how XLA's compilers spend their time; at -1 SDXL takes a seventh of it on TPUs and 3% more memory
EFFORT = -1.0
INSTALL = {
    "tpu": "pip install 'omfa_jax[tpu]'",
    "cuda": "pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cudnn-cu12 (jax's own version)",
}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one device: bytes, and what it receives in a step.

    `argument_bytes` are state and batch, `temporary_bytes` all else; `peak_bytes` is the most at
    once as the compiler plans it.
    """

    seconds: float
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    traffic: dict[str, Moved]


def devices_of(pod: Pod) -> list[Any]:
    """Return descriptions of a pod's devices, good for compiling; its plugin must be installed."""
    if pod.platform == "tpu":
        options: dict[str, Any] = {
            "topology_name": f"{pod.chip_name}:{'x'.join(map(str, pod.torus))}"
        }
        # v4's two cores of a chip are one device to programs
        if pod.chip_name == "v4":
            options["chip_config_name"] = "megacore"
        if pod.slices > 1:
            options["num_slices"] = pod.slices
    else:
        options = {
            "topology": f"1x{pod.chips // pod.group}x{pod.group}",
            "target_config": GPU_TARGETS[pod.chip_name].text(),
        }
    try:
        described = topologies.get_topology_desc(platform=pod.platform, **options)
    except Exception as error:  # plugins raise what they like
        raise OmfaError(
            f"--compile needs the compiler for {pod.platform}: {INSTALL[pod.platform]}"
            f" ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    return list(described.devices)


def compile_for(job: Job, devices: list[Any]) -> Compiled:
    """Compile `job`'s training step for described (or real) devices; it is never run.

    A step that does not fit a TPU's memory is an OmfaError of the compiler's words.
    """
    start = time.perf_counter()
    before = jax.config.jax_exec_time_optimization_effort  # type: ignore[attr-defined]
    jax.config.update("jax_exec_time_optimization_effort", EFFORT)
    try:
        divided = network_division(job.diffusion, job.unet, job.mesh, len(devices))
        mesh = make_mesh(divided.settings, devices)
        compiled = step_ahead(job.diffusion, job.unet, job.train, mesh).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = re.search(r"Ran out of memory[^\n]*", str(error))
        raise OmfaError(
            f"does not fit: {said[0] if said else str(error).splitlines()[0]}"
        ) from error
    finally:
        jax.config.update("jax_exec_time_optimization_effort", before)
    memory: Any = compiled.memory_analysis()
    # outputs share the arguments' memory where the state is donated
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Compiled(
        seconds=time.perf_counter() - start,
        argument_bytes=arguments,
        temporary_bytes=temporary,
        peak_bytes=memory.peak_memory_in_bytes or arguments + temporary + outputs,
        traffic=collectives(compiled.as_text() or ""),
    )
