"""The processes of a job end together: the first that fails tells the others why.

Left alone, the others would wait for it in a collective, and it for them in the shutdown of
`jax.distributed` until XLA aborts all of them, after minutes and with a status that says nothing.
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

log = logging.getLogger(__name__)

KEY, LEFT = "omfa/end", "omfa/left"
# how often the others ask, and how long they have to meet the same fault and say it themselves
ASK_S, GRACE_S = 1.0, 3.0
# how long process 0, in which the coordination service runs, stays for the others to hear of it
STAY_S = 20.0
# the thread that gets it ends the process
_leaving = threading.Lock()


@dataclass(frozen=True)
class End:
    """How a job ends: the exit status of all its processes, and which of them says why."""

    status: int
    line: str
    process: int
    host: str


def watch() -> None:
    """End this process, as the one that failed says, when another process of the job has failed."""
    if _client() is not None:
        threading.Thread(target=_watch, daemon=True, name="ending").start()


def end_together(status: int, line: str) -> int:
    """Tell the job's other processes that this one ends, and how; return `status` if it is alone.

    It does not return where there are others: what Python runs at its end would wait for them. If
    another process failed first, its status and its line count: this one's fault is what that left.
    """
    if _client() is None:
        return status
    with _leaving:
        end = tell(End(status, line, _index(), socket.gethostname()))
        _leave(end)


def tell(end: End) -> End:
    """Publish how this process ends, unless another was first; return the end that counts."""
    client = _client()
    try:
        client.key_value_set(KEY, json.dumps(asdict(end)))
    except jax.errors.JaxRuntimeError:
        # it is there already, or the service has gone with process 0
        return _told(client) or end
    return end


def _client() -> Any:
    """Return the client of the coordination service; None where this process is alone."""
    state = distributed.global_state
    return state.client if (state.num_processes or 1) > 1 else None


def _index() -> int:
    # jax.process_index would start the devices
    return distributed.global_state.process_id or 0


def _told(client: Any) -> End | None:
    try:
        return End(**json.loads(client.key_value_try_get(KEY)))
    except jax.errors.JaxRuntimeError:
        return None


def _watch() -> None:
    while (client := _client()) is not None:
        time.sleep(ASK_S)
        end = _told(client)
        if end is not None:
            break
    else:
        return
    time.sleep(GRACE_S)
    with _leaving:
        _leave(end)


def _leave(end: End) -> NoReturn:
    """End this process at once, process 0 after the others."""
    index = _index()
    if end.process != index:
        where = f"process {end.process} on {end.host}"
        with contextlib.suppress(OSError):
            print(f"omfa: ended with {where}: {end.line}", file=sys.stderr, flush=True)
    client = _client()
    try:
        client.key_value_set(f"{LEFT}/{index}", "")
        others = (distributed.global_state.num_processes or 1) - 1
        deadline = time.monotonic() + STAY_S
        while index == 0 and time.monotonic() < deadline:
            left = client.key_value_dir_get(LEFT)
            if len(left) > others:
                break
            time.sleep(ASK_S / 10)
    except jax.errors.JaxRuntimeError:
        # process 0 is gone, and nobody is left to wait for
        pass
    # os._exit ends no children; workers that read records would live on
    for child in multiprocessing.active_children():
        child.kill()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(end.status)
