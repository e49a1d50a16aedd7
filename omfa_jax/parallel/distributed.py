"""Start-up of multi-process jobs with `jax.distributed`, and checks across their processes."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omfa_jax import __version__
from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel import job_exit
from omfa_jax.parallel.rendezvous import Rendezvous

JOIN_TIMEOUT = "OMFA_JOIN_TIMEOUT_S"


def initialize(workdir: Path) -> None:
    """Connect to the job's other processes; does nothing in a single-process job.

    Detects Slurm (more than one task) and TPU hosts. Otherwise set JAX_COORDINATOR_ADDRESS
    (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID on every process. If some processes do not
    connect within OMFA_JOIN_TIMEOUT_S seconds (default: 300), the others name them, by the files
    that each writes to `workdir`, and exit. Afterwards all processes exit together (`job_exit`).
    """
    place = get_process_index_and_count()
    if jax.distributed.is_initialized() or (place is None and not is_tpu_host()):
        return
    seconds = _number(JOIN_TIMEOUT, 300)
    arguments = _arguments(place, seconds)
    if place is None:
        # queued TPU resources: jax asks Google's metadata server for the other hosts
        jax.distributed.initialize(**arguments)
        job_exit.start_exit_watcher()
        return
    index, count = place

    def late(missing: str) -> None:
        # XLA aborts at its own timeout with a stack trace only; say why before that
        print(
            f"omfa: timed out after {seconds} s waiting for other processes of this job: {missing}."
            " Check their logs and whether their hosts can reach the coordinator's port; set"
            f" {JOIN_TIMEOUT} to wait longer. What follows is XLA aborting this process.",
            file=sys.stderr,
            flush=True,
        )

    with Rendezvous(workdir, index, count, seconds, late):
        jax.distributed.initialize(**arguments)
    job_exit.start_exit_watcher()


def end_job(status: int, line: str) -> int:
    """Exit all processes of the job with `status`; in a single-process job return it.

    A process that fails before it has connected connects for this: otherwise the others would time
    out with an exit status on which launch scripts restart the job.
    """
    try:
        place = get_process_index_and_count()
        seconds = _number(JOIN_TIMEOUT, 300)
    except OmfaError:
        return status
    if place is not None and place[1] > 1 and not jax.distributed.is_initialized():
        # before XLA's own timeout, which aborts with another exit status
        alone = threading.Timer(seconds, os._exit, [status])
        alone.daemon = True
        alone.start()
        try:
            jax.distributed.initialize(**_arguments(place, seconds + 60))
        except Exception:
            # for example a wrong address: the others cannot be reached
            return status
        finally:
            alone.cancel()
    return job_exit.exit_all_processes(status, line)


def _arguments(place: tuple[int, int] | None, seconds: int) -> dict[str, Any]:
    """Return the arguments of `jax.distributed.initialize` for a timeout of `seconds`."""
    # the margin lets the rendezvous report first
    arguments: dict[str, Any] = {"initialization_timeout": seconds + 3}
    if place is None:
        return arguments
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        arguments["coordinator_address"] = os.environ["JAX_COORDINATOR_ADDRESS"]
        arguments |= {"num_processes": place[1], "process_id": place[0]}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible and "," not in visible:
        # jax uses Slurm's local task id, but a task that sees one GPU sees it as device 0
        arguments["local_device_ids"] = [0]
    return arguments


def get_process_index_and_count() -> tuple[int, int] | None:
    """Return (index, count) of this process in its job; None in a single-process job."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        return _number("JAX_PROCESS_ID"), _number("JAX_NUM_PROCESSES")
    if _number("SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in os.environ:
        return _number("SLURM_PROCID"), _number("SLURM_NTASKS")
    # GKE's TPU slices: with several slices TPU_WORKER_ID counts within its own
    hosts = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(","))
    slices = _number("MEGASCALE_NUM_SLICES", 1)
    if hosts * slices == 1 or "TPU_WORKER_ID" not in os.environ:
        return None
    index = _number("MEGASCALE_SLICE_ID", 0) * hosts + _number("TPU_WORKER_ID")
    return index, hosts * slices


def is_tpu_host() -> bool:
    """Return True if this host has TPU chips and libtpu is installed."""
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def check_equal_across_processes(facts: Mapping[str, str]) -> None:
    """Raise an OmfaError on every process unless `facts` are equal on all of them.

    The error names the processes that differ from process 0 and the facts in which they do. Every
    process must call this.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in facts.values())
    here = np.frombuffer(digests, np.uint8).reshape(len(facts), -1)
    # (processes, facts, bytes)
    gathered = np.asarray(multihost_utils.process_allgather(here))
    different = (gathered != gathered[:1]).any(axis=2)
    lines = [
        f"{name} of process {', '.join(map(str, np.flatnonzero(different[:, column])))}"
        for column, name in enumerate(facts)
        if different[:, column].any()
    ]
    if lines:
        raise OmfaError(
            f"the processes of this job do not agree: {'; '.join(lines)} differs from process 0's;"
            " start all processes with the same command and the same code"
        )


def any_across_processes(flag: bool) -> bool:
    """Return True on every process if `flag` is true on any; every process must call this."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def allgather_int(number: int) -> list[int]:
    """Return every process's `number` in process order; every process must call this."""
    if jax.process_count() == 1:
        return [number]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.int32(number)).tolist()


def get_code_revision() -> str:
    """Return this code's version; in a git checkout also its commit and a hash of local changes."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return __version__
    try:
        commands = (["rev-parse", "HEAD"], ["diff", "HEAD", "--", "omfa_jax"])
        found = [
            subprocess.run(
                ["git", "-C", str(here), *command],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout
            for command in commands
        ]
    except (OSError, subprocess.SubprocessError):
        # git is missing, or refuses a folder of another owner
        return f"{__version__} unknown"
    changes = hashlib.sha256(found[1].encode()).hexdigest()[:8] if found[1] else "clean"
    return f"{__version__} {found[0].strip()} {changes}"


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        came = "is not set" if text is None else f"is {text!r}"
        raise OmfaError(
            f"{name} {came}: expected an integer. JAX_COORDINATOR_ADDRESS (host:port) needs"
            " JAX_NUM_PROCESSES and JAX_PROCESS_ID next to it"
        ) from None
