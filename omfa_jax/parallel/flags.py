"""What JAX and XLA are told by the environment on GPUs and TPUs: the one place, with reasons.

None of XLA's flags has been timed on such a machine by this project yet. What a user's environment
says is left alone.
"""

import logging
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.hardware import USABLE

log = logging.getLogger(__name__)

# the part of a GPU's memory that JAX takes at its start; it refuses both names together
FRACTION, OLD_FRACTION = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
PREALLOCATE, ALLOCATOR = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR"
# where nothing says how much
JAX_DEFAULT = 0.75

GPU_FLAGS = {
    # FSDP's gathers and scatters run beside the layers that do not need them
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
    # two copies of a scan's body: the next transformer block's gather can start in this one
    "--xla_gpu_enable_while_loop_double_buffering": "true",
    # collectives do not queue behind the kernels that they should overlap
    "--xla_gpu_enable_highest_priority_async_stream": "true",
}
TPU_FLAGS = {
    # the same overlap on a TPU: gathers become part of the computations beside them
    "--xla_enable_async_all_gather": "true",
    "--xla_tpu_enable_async_collective_fusion": "true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "--xla_tpu_overlap_compute_collective_tc": "true",
    # gradients over data and slices: several sizes in one all-reduce, started as they come
    "--xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "--xla_tpu_data_parallel_opt_different_sized_ops": "true",
}


def set_flags(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add XLA's flags and the part of a GPU's memory; to be called before devices are asked for.

    GPU flags only where there is an NVIDIA device, so that nothing else can mind them.
    """
    on_gpu = Path("/dev/nvidiactl").exists()
    for platform in ("cuda", "tpu") if on_gpu else ("tpu",):
        set_flags_of(platform, environment)
    said = own_memory(environment)
    if not said:
        environment[FRACTION] = str(USABLE)
    elif on_gpu:
        log.warning("%s", memory_note(environment))


def set_flags_of(platform: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Add XLA's flags of one platform, "cuda" or "tpu", whose devices need not be here."""
    if platform == "cuda":
        _add(environment, "XLA_FLAGS", GPU_FLAGS)
    else:
        _add(environment, "LIBTPU_INIT_ARGS", TPU_FLAGS)


def memory_note(environment: Mapping[str, str]) -> str:
    """Return the line on what the environment says of GPU memory; "" where it says nothing."""
    said = own_memory(environment)
    if not said:
        return ""
    words = " ".join(f"{name}={value}" for name, value in said.items())
    return (
        f"{words} stays as it is: programs get {usable_part('cuda', environment):.0%} of a GPU's"
        f" memory, not omfa's {USABLE:.0%}"
    )


def _add(environment: MutableMapping[str, str], variable: str, flags: dict[str, str]) -> None:
    words = environment.get(variable, "").split()
    named = {word.split("=")[0] for word in words}
    words += [f"{flag}={value}" for flag, value in flags.items() if flag not in named]
    environment[variable] = " ".join(words)


def leave_memory(to: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave JAX's own default of a GPU's memory to another library, unless the user decides."""
    if environment.get(FRACTION) == str(USABLE):
        del environment[FRACTION]
        log.info("GPU memory: a quarter is left to %s", to)


def usable_part(platform: str, environment: Mapping[str, str] = os.environ) -> float:
    """Return the part of a chip's memory, 0..1, that programs get from JAX in this environment."""
    said = own_memory(environment)
    if platform != "cuda" or not said:
        return USABLE
    fraction = said.get(FRACTION) or said.get(OLD_FRACTION)
    if fraction is None:
        return USABLE if said.get(ALLOCATOR) == "platform" else JAX_DEFAULT
    try:
        # above 1 it is the host's memory too, which is not the chip's
        found = min(float(fraction), 1.0)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise OmfaError(f"{FRACTION} (or {OLD_FRACTION}): expected a number > 0, got {fraction!r}")
    return found


def own_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an environment says of GPU memory beside what `set_flags` does."""
    names = (FRACTION, OLD_FRACTION, PREALLOCATE, ALLOCATOR)
    said = {name: environment[name] for name in names if environment.get(name)}
    return {} if said == {FRACTION: str(USABLE)} else said
