"""Joining the other hosts: `jax.distributed`, when the environment says there are any."""

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
from omfa_jax.parallel import ending
from omfa_jax.parallel.joining import Roll

JOIN_TIMEOUT = "OMFA_JOIN_TIMEOUT_S"


def initialize(workdir: Path) -> None:
    """Join the job's other processes; on a single host do nothing.

    Slurm (more than one task) and TPU hosts are recognised; by hand, set JAX_COORDINATOR_ADDRESS
    (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID on every process.
    Where not all come within OMFA_JOIN_TIMEOUT_S seconds (300), those that did name the missing
    ones, by the marks that all leave in `workdir`, and end.
    From then on the processes end together (`ending`).
    """
    place = place_in_job()
    if jax.distributed.is_initialized() or (place is None and not on_tpu_host()):
        return
    seconds = _number(JOIN_TIMEOUT, 300)
    arguments = _arguments(place, seconds)
    if place is None:
        # a queued TPU's hosts learn of each other from Google's metadata server, which jax asks
        jax.distributed.initialize(**arguments)
        ending.watch()
        return
    index, count = place

    def late(missing: str) -> None:
        # XLA ends the process at its time-out, and says why in a stack trace: say it before
        print(
            f"omfa: not every process of this job came within {seconds} s ({JOIN_TIMEOUT} waits"
            f" longer): {missing}. See its log, and whether its host can reach the coordinator's"
            " port. What follows is XLA ending this process.",
            file=sys.stderr,
            flush=True,
        )

    with Roll(workdir, index, count, seconds, late):
        jax.distributed.initialize(**arguments)
    ending.watch()


def end(status: int, line: str) -> int:
    """Return `status` for this process to end with; of a job of several, end them all with it.

    One that fails before it has joined joins for that, or the others would wait for it and then
    end in a way that a launch script answers with a restart.
    """
    try:
        place = place_in_job()
        seconds = _number(JOIN_TIMEOUT, 300)
    except OmfaError:
        return status
    if place is not None and place[1] > 1 and not jax.distributed.is_initialized():
        # before XLA's own time-out, which aborts
        alone = threading.Timer(seconds, os._exit, [status])
        alone.daemon = True
        alone.start()
        try:
            jax.distributed.initialize(**_arguments(place, seconds + 60))
        except Exception:
            # the address is wrong, say: then nobody can be told
            return status
        finally:
            alone.cancel()
    return ending.end_together(status, line)


def _arguments(place: tuple[int, int] | None, seconds: int) -> dict[str, Any]:
    """Return what `jax.distributed.initialize` needs to wait for all for some `seconds`."""
    arguments: dict[str, Any] = {"initialization_timeout": seconds + 3}
    if place is None:
        return arguments
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        arguments["coordinator_address"] = os.environ["JAX_COORDINATOR_ADDRESS"]
        arguments |= {"num_processes": place[1], "process_id": place[0]}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible and "," not in visible:
        # jax takes the task's number on its host, but a task that sees one GPU sees it as number 0
        arguments["local_device_ids"] = [0]
    return arguments


def place_in_job() -> tuple[int, int] | None:
    """Return (index, count) of this process in its job; None where it is alone."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        return _number("JAX_PROCESS_ID"), _number("JAX_NUM_PROCESSES")
    if _number("SLURM_NTASKS", 1) > 1 and "SLURM_PROCID" in os.environ:
        return _number("SLURM_PROCID"), _number("SLURM_NTASKS")
    # GKE's TPU pods; of several slices each counts its own hosts
    hosts = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(","))
    slices = _number("MEGASCALE_NUM_SLICES", 1)
    if hosts * slices == 1 or "TPU_WORKER_ID" not in os.environ:
        return None
    index = _number("MEGASCALE_SLICE_ID", 0) * hosts + _number("TPU_WORKER_ID")
    return index, hosts * slices


def on_tpu_host() -> bool:
    """True where this machine has TPU chips and the library for them."""
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def require_same(facts: Mapping[str, str]) -> None:
    """Raise an OmfaError on every process unless all of them have the same `facts`.

    The error names the processes that differ from process 0, and in which of the facts.
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
            " start all of them with the same command from the same code"
        )


def any_process(flag: bool) -> bool:
    """Return True on every process if `flag` is true on one; all of them must call this."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def of_all_processes(number: int) -> list[int]:
    """Return every process's `number`, in their order; all of them must call this."""
    if jax.process_count() == 1:
        return [number]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.int32(number)).tolist()


def revision() -> str:
    """Return what code this is: the version, and in a checkout the commit and its changes."""
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
        # no git, or one that distrusts the folder's owner
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
            f"{name} {came}: beside JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and"
            " JAX_PROCESS_ID must be whole numbers, and so must what Slurm and TPU pods set, and"
            f" {JOIN_TIMEOUT} if it is given"
        ) from None
