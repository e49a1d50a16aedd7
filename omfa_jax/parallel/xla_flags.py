"""XLA flags and GPU memory settings that omfa adds to the environment.

Settings already in the environment win. None of these flags has been timed on a GPU or TPU by this
project yet.
"""

import logging
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.hardware import USABLE_FRACTION

log = logging.getLogger(__name__)

# fraction of a GPU's memory that JAX preallocates; setting both names is an error in JAX
MEM_FRACTION, LEGACY_MEM_FRACTION = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
PREALLOCATE, ALLOCATOR = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR"
# JAX's fraction if neither is set
JAX_DEFAULT = 0.75

GPU_FLAGS = {
    # overlaps FSDP's gathers and scatters with other layers
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
    # unrolls a scan by two, so that the next block's gather can start in this one
    "--xla_gpu_enable_while_loop_double_buffering": "true",
    # keeps collectives from queueing behind the kernels that they should overlap
    "--xla_gpu_enable_highest_priority_async_stream": "true",
}
TPU_FLAGS = {
    # the same overlap on TPUs: gathers are fused into concurrent computation
    "--xla_enable_async_all_gather": "true",
    "--xla_tpu_enable_async_collective_fusion": "true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "--xla_tpu_overlap_compute_collective_tc": "true",
    # gradients over data and slices: combines all-reduces of different sizes and starts them early
    "--xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "--xla_tpu_data_parallel_opt_different_sized_ops": "true",
}


def set_xla_flags(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add XLA's flags and the GPU memory fraction; must run before JAX initialises its devices.

    GPU flags are added only if there is an NVIDIA device: other builds of XLA reject unknown flags.
    """
    on_gpu = Path("/dev/nvidiactl").exists()
    for platform in ("cuda", "tpu") if on_gpu else ("tpu",):
        set_platform_flags(platform, environment)
    own = get_user_memory_settings(environment)
    if not own:
        environment[MEM_FRACTION] = str(USABLE_FRACTION)
    elif on_gpu:
        log.warning("%s", format_memory_note(environment))


def set_platform_flags(platform: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Add the XLA flags of a platform ("cuda", "rocm", "tpu"); no such device need be attached."""
    if platform == "tpu":
        _add(environment, "LIBTPU_INIT_ARGS", TPU_FLAGS)
    else:
        _add(environment, "XLA_FLAGS", GPU_FLAGS)


def format_memory_note(environment: Mapping[str, str]) -> str:
    """Return a line on the environment's own GPU memory settings; "" if there are none."""
    own = get_user_memory_settings(environment)
    if not own:
        return ""
    words = " ".join(f"{name}={value}" for name, value in own.items())
    return (
        f"{words} from the environment is kept: programs get"
        f" {get_usable_fraction('cuda', environment):.0%} of GPU memory instead of omfa's"
        f" {USABLE_FRACTION:.0%}"
    )


def _add(environment: MutableMapping[str, str], variable: str, flags: dict[str, str]) -> None:
    words = environment.get(variable, "").split()
    named = {word.split("=")[0] for word in words}
    words += [f"{flag}={value}" for flag, value in flags.items() if flag not in named]
    environment[variable] = " ".join(words)


def reserve_gpu_memory(to: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Go back to JAX's default fraction of GPU memory, to make room for the library `to`.

    Settings from the user's environment are kept.
    """
    if environment.get(MEM_FRACTION) == str(USABLE_FRACTION):
        del environment[MEM_FRACTION]
        log.info("GPU memory: leaving a quarter for %s", to)


def get_usable_fraction(platform: str, environment: Mapping[str, str] = os.environ) -> float:
    """Return the fraction of a device's memory, 0..1, that JAX programs get in this environment."""
    own = get_user_memory_settings(environment)
    if platform == "tpu" or not own:
        return USABLE_FRACTION
    fraction = own.get(MEM_FRACTION) or own.get(LEGACY_MEM_FRACTION)
    if fraction is None:
        return USABLE_FRACTION if own.get(ALLOCATOR) == "platform" else JAX_DEFAULT
    try:
        # above 1 JAX adds host memory, which does not count here
        found = min(float(fraction), 1.0)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise OmfaError(
            f"{MEM_FRACTION} (or {LEGACY_MEM_FRACTION}): expected a number > 0, got {fraction!r}"
        )
    return found


def get_user_memory_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment's GPU memory settings other than the one that `set_xla_flags` adds."""
    names = (MEM_FRACTION, LEGACY_MEM_FRACTION, PREALLOCATE, ALLOCATOR)
    own = {name: environment[name] for name in names if environment.get(name)}
    return {} if own == {MEM_FRACTION: str(USABLE_FRACTION)} else own
