"""Start-up of multi-process jobs with `jax.distributed`, and checks across their processes."""

import hashlib
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np

from omfa_jax.core import startup_signals
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.log_lines import format_prefix, set_log_place
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.value_rules import format_value
from omfa_jax.parallel import hang_watcher, job_exit
from omfa_jax.parallel.job_place import JobPlace, find_job_place
from omfa_jax.parallel.local_gpus import choose_local_gpus
from omfa_jax.parallel.rendezvous import Rendezvous
from omfa_jax.parallel.shared_workdir import name_process, require_shared_workdir

JOIN_TIMEOUT, HANG_TIMEOUT = "OMFA_JOIN_TIMEOUT_S", "OMFA_HANG_TIMEOUT_S"
# XLA's own limit for a process that does not answer, which ends all others without naming it
XLA_HEARTBEAT_S = 100
# of facts that differ: bytes of each text, and processes that are named
SHOWN_BYTES, SHOWN_PROCESSES = 64, 8

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def initialize(workdir: AnyPath) -> None:
    """Connect to the job's other processes; does nothing in a single-process job.

    Detects Slurm (more than one task), mpirun and TPU hosts (`job_place`). Otherwise set
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID on every process. If
    some processes do not connect within OMFA_JOIN_TIMEOUT_S seconds (default: 300), the others name
    them, by the files that each writes to `workdir`, and exit. Afterwards all processes exit
    together (`job_exit`), also because of one that does not respond for OMFA_HANG_TIMEOUT_S seconds
    (default: 60). Raises an OmfaError if `workdir` is not one folder for all.
    """
    if jax.distributed.is_initialized():
        return
    place = find_job_place()
    if place is None and not is_tpu_host():
        return
    seconds, hang_s = _seconds(JOIN_TIMEOUT, 300), _seconds(HANG_TIMEOUT, hang_watcher.HANG_S)
    arguments = _arguments(place, seconds, hang_s)
    if place is None:
        # queued TPU resources: jax asks Google's metadata server for the other hosts
        jax.distributed.initialize(**arguments)
        set_log_place(jax.process_index(), jax.process_count())
        _watch_processes(hang_s)
        require_shared_workdir(workdir)
        return

    set_log_place(place.index, place.count)

    def late(missing: str) -> None:
        # XLA aborts at its own timeout with a stack trace only; say why before that
        print(
            f"{format_prefix()}omfa: timed out after {seconds} s waiting for other processes of"
            f" this job: {missing}. Check their logs and whether their hosts can reach the"
            " coordinator's port; set"
            f" {JOIN_TIMEOUT} to wait longer. What follows is XLA aborting this process.",
            file=sys.stderr,
            flush=True,
        )

    gpus = arguments.get("local_device_ids")
    shown = f", GPUs {', '.join(map(str, gpus))} of those it sees" if gpus else ""
    log.info("process %d of %d (%s)%s", place.index, place.count, place.launcher, shown)
    with Rendezvous(workdir, place.index, place.count, seconds, late):
        jax.distributed.initialize(**arguments)
    _watch_processes(hang_s)
    require_shared_workdir(workdir)


def end_job(status: int, line: str) -> int:
    """Exit all processes of the job with `status`; in a single-process job return it.

    A process that fails before it has connected connects for this: otherwise the others would time
    out with an exit status on which launch scripts restart the job.
    """
    try:
        place = find_job_place()
        seconds = _seconds(JOIN_TIMEOUT, 300)
        arguments = _arguments(place, seconds + 60, hang_watcher.HANG_S) if place else {}
    except OmfaError:
        return status
    if place is not None and place.count > 1 and not jax.distributed.is_initialized():
        # before XLA's own timeout, which aborts with another exit status
        alone = threading.Timer(seconds, os._exit, [status])
        alone.daemon = True
        alone.start()
        try:
            jax.distributed.initialize(**arguments)
        except Exception:
            # for example a wrong address: the others cannot be reached
            return status
        finally:
            alone.cancel()
    return job_exit.exit_all_processes(status, line)


def _arguments(place: JobPlace | None, seconds: int, hang_s: int) -> dict[str, Any]:
    """Return the arguments of `jax.distributed.initialize` for a timeout of `seconds`."""
    # the margins let the rendezvous and the hang watcher report first
    arguments: dict[str, Any] = {
        "initialization_timeout": seconds + 3,
        "heartbeat_timeout_seconds": max(XLA_HEARTBEAT_S, hang_s + 40),
    }
    if place is None:
        return arguments
    if place.coordinator is not None:
        arguments["coordinator_address"] = place.coordinator
        arguments |= {"num_processes": place.count, "process_id": place.index}
        # jax would still take the GPU from variables of a scheduler that did not start us
        arguments["cluster_detection_method"] = "deactivate"
    gpus = choose_local_gpus(place)
    if gpus is not None:
        arguments["local_device_ids"] = gpus
    return arguments


def _watch_processes(hang_s: int) -> None:
    # from here on the preemption service handles SIGTERM, and tells all processes
    startup_signals.set_job_stop(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    job_exit.start_exit_watcher()
    hang_watcher.start_hang_watcher(hang_s)


def is_tpu_host() -> bool:
    """Return True if this host has TPU chips and libtpu is installed."""
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def check_equal_across_processes(
    facts: Mapping[str, str],
    advice: str = "start all processes with the same command and the same code",
    *,
    shown: bool = False,
) -> None:
    """Raise an OmfaError on every process unless `facts` are equal on all of them.

    The error names the processes and hosts that differ from process 0 and the facts in which they
    do; `shown`: with the two texts, which must be short. Every process must call this.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in facts.values())
    here = np.frombuffer(digests, np.uint8).reshape(len(facts), -1)
    # (processes, facts, bytes)
    gathered = np.asarray(multihost_utils.process_allgather(here))
    different = (gathered != gathered[:1]).any(axis=2)
    if not different.any():
        return
    texts = np.full_like(gathered[0], 0, shape=(len(facts), SHOWN_BYTES))
    for row, text in zip(texts, facts.values(), strict=True):
        cut = np.frombuffer(text.encode()[:SHOWN_BYTES], np.uint8)
        row[: len(cut)] = cut
    told = np.asarray(multihost_utils.process_allgather(texts)) if shown else None
    lines = [
        describe_difference(
            name,
            np.flatnonzero(different[:, column]).tolist(),
            None
            if told is None
            else [bytes(row).rstrip(b"\0").decode() for row in told[:, column]],
        )
        for column, name in enumerate(facts)
        if different[:, column].any()
    ]
    raise OmfaError(f"the processes of this job do not agree: {'; '.join(lines)}; {advice}")


def describe_difference(name: str, apart: Sequence[int], texts: Sequence[str] | None) -> str:
    """Return which processes have another `name` than process 0; `texts`: each process's."""
    named = [
        name_process(index) + (f" ({texts[index]})" if texts else "")
        for index in apart[:SHOWN_PROCESSES]
    ]
    more = len(apart) - len(named)
    first = f" ({texts[0]})" if texts else ""
    return (
        f"{name} of {', '.join(named)}{f' and {more} more' if more else ''} differs from process"
        f" 0's{first}"
    )


def any_across_processes(flag: bool) -> bool:
    """Return True on every process if `flag` is true on any; every process must call this."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def run_on_main_process(work: Callable[[], None]) -> None:
    """Run `work` on process 0; the others wait until it is done, or fail if it fails."""
    failed = None
    if jax.process_index() == 0:
        try:
            work()
        except (OmfaError, OSError) as error:
            failed = error
    if any_across_processes(failed is not None):
        raise failed or OmfaError("process 0 of this job failed; its log says why")


def run_on_all_processes(work: Callable[[], Result]) -> Result:
    """Return this process's `work()` when all have done theirs; if one fails, raise on all."""
    failed = result = None
    try:
        result = work()
    except Exception as error:
        # raised below, after the others know: they would wait for this process forever
        failed = error
    if any_across_processes(failed is not None):
        raise failed or OmfaError("another process of this job failed; its log says why")
    return cast(Result, result)


def allgather_int(number: int) -> list[int]:
    """Return every process's `number` in process order; every process must call this."""
    if jax.process_count() == 1:
        return [number]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.int32(number)).tolist()


def _seconds(name: str, default: int) -> int:
    """Return a duration in whole seconds from the environment."""
    text = os.environ.get(name) or str(default)
    if not (text.isdecimal() and 0 < int(text) < 10**7):
        raise OmfaError(f"{name} is {format_value(text)}: expected a number of seconds from 1")
    return int(text)
