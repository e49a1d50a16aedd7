"""Coordinated exit of a multi-process job: the first process that fails publishes why.

Without it the others would block in a collective, and the failed one in `jax.distributed`'s
shutdown, until XLA aborts all of them after minutes with an uninformative exit status.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import jax
from jax._src import distributed

from omfa_jax.core import startup_signals
from omfa_jax.core.log_lines import format_prefix
from omfa_jax.parallel import activity, watcher_threads
from omfa_jax.parallel.shared_workdir import name_process

log = logging.getLogger(__name__)

KEY, LEFT = "omfa/end", "omfa/left"
# poll interval, and how long the others get to hit the same fault and report it themselves
ASK_S, GRACE_S = 1.0, 3.0
# how long process 0, which runs the coordination service, waits for the others to read the notice:
# the full time if one of them has died without a word
STAY_S = 10.0
# how long the process that failed stays for the others to leave, for without its connections their
# collectives fail first, and XLA may abort them with a status of its own; process 0 stays longer
LINGER_S, LAST_S = 7.0, 0.5
SHOWN_PROCESSES = 8
# the key that XLA's preemption service writes when a process has got SIGTERM
PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"
# held by the thread that exits the process
_leaving = threading.Lock()


@dataclass(frozen=True)
class JobExit:
    """How a job exits: all processes' exit status, and the error line of the one that failed."""

    status: int
    line: str
    process: int
    host: str


def start_exit_watcher() -> None:
    """Start the thread that exits this process when another process of the job has failed."""
    if _client() is not None:
        watcher_threads.start_watcher(_watch, name="ending")


def exit_all_processes(status: int, line: str) -> int:
    """Exit all processes of the job; in a single-process job return `status`.

    Does not return in a multi-process job: Python's exit handlers would wait for the others. If
    another process failed first, its status and line are used: this failure is a consequence.
    """
    if _client() is None:
        return status
    with _leaving:
        end = publish_exit(JobExit(status, line, _index(), socket.gethostname()))
        _leave(end)


def is_leaving() -> bool:
    """Return True once this process exits because of another, of which errors are a consequence."""
    return _leaving.locked()


def exit_because_of_hang(end: JobExit) -> NoReturn:
    """Exit all processes because of one that has stopped responding, which `end` names."""
    # another thread may wait for the service of a process 0 that hangs, with the lock held
    _leaving.acquire(timeout=ASK_S)
    if end.process != 0:
        end = publish_exit(end)
    _leave(end, hung=end.process)


def exit_because_of_stall(end: JobExit) -> NoReturn:
    """Exit all processes because of one that still runs but holds up the others."""
    with _leaving:
        _leave(publish_exit(end), is_told=True)


def publish_exit(end: JobExit) -> JobExit:
    """Publish this exit unless another process was first; return the one that was first."""
    client = _client()
    try:
        client.key_value_set(KEY, json.dumps(asdict(end)))
    except jax.errors.JaxRuntimeError:
        # the key exists, or the service is gone with process 0
        return _read_exit(client) or end
    return end


def _client() -> Any:
    """Return the coordination service's client; None in a single-process job."""
    state = distributed.global_state
    return state.client if (state.num_processes or 1) > 1 else None


def _index() -> int:
    # jax.process_index would initialise the devices
    return distributed.global_state.process_id or 0


def _read_exit(client: Any) -> JobExit | None:
    try:
        return JobExit(**json.loads(client.key_value_try_get(KEY)))
    except jax.errors.JaxRuntimeError:
        return None


def _watch() -> None:
    while (client := _client()) is not None:
        if watcher_threads.wait(ASK_S):
            return
        if startup_signals.is_starting() and _is_preempted(client):
            _stop_before_first_step(client)
        end = _read_exit(client)
        if end is not None:
            break
    else:
        return
    # the process that is named knows best: it leaves without waiting for its own report
    time.sleep(0 if end.process == _index() else GRACE_S)
    with _leaving:
        _leave(end, is_told=True)


def _is_preempted(client: Any) -> bool:
    try:
        return bool(client.key_value_try_get(PREEMPTED))
    except jax.errors.JaxRuntimeError:
        return False


def _stop_before_first_step(client: Any) -> NoReturn:
    """Exit all processes because one got a signal: a compilation may outlast the grace period."""
    line = startup_signals.format_startup_line("SIGTERM")
    with _leaving:
        end = publish_exit(JobExit(startup_signals.STATUS, line, _index(), socket.gethostname()))
        if end.process == _index():
            print_line(f"omfa train: {line}")
        _leave(end)


def print_line(text: str) -> None:
    """Print a line to stderr with the process's place, whatever has become of stderr."""
    with contextlib.suppress(OSError):
        print(format_prefix() + text, file=sys.stderr, flush=True)


def _leave(end: JobExit, hung: int | None = None, *, is_told: bool = False) -> NoReturn:
    """Exit this process immediately; process 0 waits for the others first, but for `hung`.

    `is_told`: `end` was found by a watcher, so that this process has not printed it.
    """
    index = _index()
    if end.process != index:
        where = f"process {end.process} on {end.host}"
        print_line(f"omfa: exiting because of {where}: {end.line}")
    elif is_told:
        print_line(f"omfa: exiting: {end.line}; it is in {activity.describe_main_thread()}")
    # process 0 runs the service: if it hangs there is nobody to tell
    if hung != 0:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _wait_for_others(index, hung, is_cause=end.process == index)
    # os._exit leaves child processes running: the workers that read records
    for child in multiprocessing.active_children():
        child.kill()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(end.status)


def _wait_for_others(index: int, hung: int | None, *, is_cause: bool) -> None:
    """Tell that this process leaves; process 0 and the one that failed wait until the others do."""
    client = _client()
    client.key_value_set(f"{LEFT}/{index}", "")
    count = distributed.global_state.num_processes or 1
    deadline = time.monotonic() + (STAY_S if index == 0 else LINGER_S if is_cause else 0)
    missing: list[int] = []
    while time.monotonic() < deadline:
        left = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(LEFT)}
        missing = [one for one in range(count) if one not in left and one != hung]
        if not missing:
            break
        time.sleep(ASK_S / 10)
    if index == 0 and missing:
        shown = ", ".join(map(name_process, missing[:SHOWN_PROCESSES]))
        more = f" and {len(missing) - SHOWN_PROCESSES} more" if missing[SHOWN_PROCESSES:] else ""
        print_line(f"omfa: {shown}{more} left without a word: killed, crashed, or its host is gone")
    if index == 0:
        # XLA aborts whoever still asks the service when it goes
        time.sleep(LAST_S)
