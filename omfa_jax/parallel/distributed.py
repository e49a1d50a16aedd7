"""Joining the other hosts: `jax.distributed`, when the environment says there are any."""

import os

import jax

from omfa_jax.core.errors import OmfaError


def initialize() -> None:
    """Join the job's other processes; on a single host do nothing.

    Slurm (more than one task) and TPU pods are recognised by jax itself; by hand, set
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID on every process.
    """
    by_hand = os.environ.get("JAX_COORDINATOR_ADDRESS")
    slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    if jax.distributed.is_initialized() or not (by_hand or slurm or pod):
        return
    if not by_hand:
        jax.distributed.initialize()
        return
    try:
        count = int(os.environ["JAX_NUM_PROCESSES"])
        index = int(os.environ["JAX_PROCESS_ID"])
    except (KeyError, ValueError) as error:
        raise OmfaError(
            f"JAX_COORDINATOR_ADDRESS={by_hand} is set; JAX_NUM_PROCESSES and JAX_PROCESS_ID must"
            f" be whole numbers too ({error})"
        ) from None
    jax.distributed.initialize(by_hand, count, index)
