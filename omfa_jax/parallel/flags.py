"""XLA's flags for training on GPUs and TPUs: the one place, each with its reason.

None of them has been timed on such a machine by this project yet. What a user's environment says
of a flag is left alone.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

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
    """Add the flags to XLA_FLAGS and LIBTPU_INIT_ARGS; to be called before devices are asked for.

    GPU flags only where there is an NVIDIA device, so that nothing else can mind them.
    """
    if Path("/dev/nvidiactl").exists():
        _add(environment, "XLA_FLAGS", GPU_FLAGS)
    _add(environment, "LIBTPU_INIT_ARGS", TPU_FLAGS)


def _add(environment: MutableMapping[str, str], variable: str, flags: dict[str, str]) -> None:
    words = environment.get(variable, "").split()
    named = {word.split("=")[0] for word in words}
    words += [f"{flag}={value}" for flag, value in flags.items() if flag not in named]
    environment[variable] = " ".join(words)
