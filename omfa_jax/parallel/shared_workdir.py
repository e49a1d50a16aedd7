"""Check at start that all processes see one workdir, by a file that the first of them writes.

Without the check, hosts with a folder each hang at the first save, or keep a part of it each.
"""

import contextlib
import json
import logging
import secrets
import socket
import time
from typing import Any

import jax
from jax._src import distributed

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.parallel.rendezvous import FOLDER

log = logging.getLogger(__name__)

TOKEN, SEEN, VERDICT = "omfa/token", "omfa/seen", "omfa/shared"
# A name that nobody has looked up is asked of the server even where listings are cached.
LOOK_S, LOOK_EVERY_S = 20.0, 0.2
# all processes have connected; a slow one may still wait for its own file system
ANSWER_S = 120.0


def require_shared_workdir(workdir: AnyPath) -> None:
    """Raise an OmfaError on every process unless all see the file that process 0 writes.

    Does nothing in a single-process job. Needs no devices. A process looks for LOOK_S seconds.
    """
    state = distributed.global_state
    if state.client is None or (state.num_processes or 1) < 2:
        return
    index, count = state.process_id or 0, state.num_processes or 1
    if index == 0:
        _check_as_first(state.client, workdir, count)
        return
    token = _get(state.client, TOKEN)
    seen = look_for(workdir / FOLDER / token, LOOK_S) if token else True
    answer = {"host": socket.gethostname(), "seen": seen, "folder": str(workdir.absolute())}
    state.client.key_value_set(f"{SEEN}/{index}", json.dumps(answer), True)
    if line := _get(state.client, VERDICT):
        raise OmfaError(line)


def _check_as_first(client: Any, workdir: AnyPath, count: int) -> None:
    mark = workdir / FOLDER / f"token-{secrets.token_hex(8)}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(socket.gethostname())
        name = mark.name
    except OSError as error:
        log.warning("%s: %s; not checked that all hosts share it", mark, error.strerror or error)
        name = ""
    here = {"host": socket.gethostname(), "seen": True, "folder": str(workdir.absolute())}
    client.key_value_set(f"{SEEN}/0", json.dumps(here), True)
    client.key_value_set(TOKEN, name, True)
    answers = {0: here}
    for index in range(1, count):
        text = _get(client, f"{SEEN}/{index}")
        if text:
            answers[index] = json.loads(text)
    line = describe_separate(answers)
    client.key_value_set(VERDICT, line, True)
    with contextlib.suppress(OSError):
        mark.unlink(missing_ok=True)
    if line:
        raise OmfaError(line)


def look_for(mark: AnyPath, seconds: float) -> bool:
    """Return True as soon as the file exists; False if it does not within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if mark.exists():
                return True
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK_EVERY_S)


def describe_separate(answers: dict[int, dict[str, Any]]) -> str:
    """Return the error line for processes that do not see process 0's file; "" if all do."""
    apart = [
        f"process {index} on {answer['host']}"
        for index, answer in sorted(answers.items())
        if not answer["seen"]
    ]
    if not apart:
        return ""
    shown = ", ".join(apart[:8]) + (f" and {len(apart) - 8} more" if len(apart) > 8 else "")
    first = answers[0]
    return (
        f"{first['folder']} is not one folder: {shown} {'do' if apart[1:] else 'does'} not see the"
        f" file that process 0 on {first['host']} has written there, so each host has a folder of"
        " its own; give a folder that all hosts share (NFS, Lustre, Filestore, a mounted bucket)"
    )


def find_hosts() -> list[str]:
    """Return the host of each process that has told it, in order; this one's host if alone."""
    client = distributed.global_state.client
    if client is None:
        return [socket.gethostname()]
    try:
        rows = client.key_value_dir_get(SEEN)
    except jax.errors.JaxRuntimeError:
        return [socket.gethostname()]
    told = {int(key.rpartition("/")[2]): json.loads(text)["host"] for key, text in rows}
    return [told[index] for index in sorted(told)] or [socket.gethostname()]


def name_process(index: int) -> str:
    """Return "process 3 on HOST", or "process 3" if its host is not known."""
    hosts = find_hosts()
    # the list is complete once the workdir has been checked
    return f"process {index} on {hosts[index]}" if index < len(hosts) else f"process {index}"


def _get(client: Any, key: str) -> str:
    """Return a key's text once it is set; "" if it does not come, for others report that."""
    try:
        return client.blocking_key_value_get(key, int(ANSWER_S * 1000))
    except jax.errors.JaxRuntimeError:
        return ""
