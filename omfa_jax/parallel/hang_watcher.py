"""Name a process that has stopped responding, before XLA ends all others without naming it.

Every process writes a beat to the coordination service, which process 0 runs. Process 0 looks for
beats that have stopped; the others look whether the service still answers, that is, at process 0.
A process that is stopped (SIGSTOP), frozen with its host or cut off beats no more. A collective
that waits is no hang: its process still beats.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jax._src import distributed

from omfa_jax.core.exit_status import RESTART
from omfa_jax.parallel import job_exit, watcher_threads

ALIVE = "omfa/alive"
# seconds without a beat until a process is named, and seconds between beats
HANG_S, BEAT_S = 60, 2.0


def start_hang_watcher(hang_s: int) -> None:
    """Start the threads that beat and watch; does nothing in a single-process job."""
    state = distributed.global_state
    if state.client is None or (state.num_processes or 1) < 2:
        return
    index, host = state.process_id or 0, socket.gethostname()
    answered = Answer()
    watcher_threads.start_watcher(_beat, index, host, answered, name="beat")
    watcher_threads.start_watcher(_watch, index, hang_s, answered, name="hang")


@dataclass
class Answer:
    """The beats that the coordination service has accepted, and the last table of all beats.

    `beats`: {process index: text of its last beat}, filled on process 0 only.
    """

    count: int = 0
    beats: dict[int, str] = field(default_factory=dict)


class Stillness:
    """How long things have not changed, in the time that this process has been running.

    `clock()` gives seconds. A look that comes more than `gap_s` after the last one starts afresh:
    this process, or its host, was stopped itself.
    """

    def __init__(self, gap_s: float, clock: Callable[[], float] = time.monotonic):
        self._gap_s, self._clock = gap_s, clock
        self._last = clock()
        self._seen: dict[int, tuple[object, float]] = {}

    def find_still(self, values: dict[int, object], seconds: float) -> list[int]:
        """Return the keys whose value has been the same for `seconds`, in order."""
        now = self._clock()
        if now - self._last > self._gap_s:
            self._seen = {key: (value, now) for key, (value, _) in self._seen.items()}
        self._last = now
        for key, value in values.items():
            if key not in self._seen or self._seen[key][0] != value:
                self._seen[key] = (value, now)
        return sorted(key for key in values if now - self._seen[key][1] >= seconds)


def _beat(index: int, host: str, answered: Answer) -> None:
    while (client := _client()) is not None:
        try:
            client.key_value_set(f"{ALIVE}/{index}", f"{answered.count} {host}", True)
            if index == 0:
                answered.beats = read_beats(client)
            answered.count += 1
        except jax.errors.JaxRuntimeError:
            # a late answer, or process 0 is gone: then XLA ends this process at once
            pass
        if watcher_threads.wait(BEAT_S):
            return


def read_beats(client: Any) -> dict[int, str]:
    """Return {process index: text of its last beat}."""
    rows = client.key_value_dir_get(ALIVE)
    return {int(key.rpartition("/")[2]): text for key, text in rows}


def _watch(index: int, hang_s: int, answered: Answer) -> None:
    stillness = Stillness(gap_s=max(3 * BEAT_S, hang_s / 2))
    while _client() is not None and not watcher_threads.wait(BEAT_S / 2):
        if index != 0:
            if stillness.find_still({0: answered.count}, hang_s):
                report_hang(0, "", hang_s)
            continue
        others = {key: text for key, text in answered.beats.items() if key != 0}
        for hung in stillness.find_still(dict(others), hang_s):
            if _client() is not None:
                report_hang(hung, others[hung].partition(" ")[2], hang_s)


def report_hang(hung: int, host: str, hang_s: int) -> None:
    """End the job because of a process that has stopped responding, with a line that names it."""
    line = (
        f"it has not responded for {hang_s} s: stopped, frozen or cut off (OMFA_HANG_TIMEOUT_S sets"
        " the time)"
    )
    address = distributed.global_state.coordinator_address or ""
    where = host or address.rpartition(":")[0]
    job_exit.exit_because_of_hang(job_exit.JobExit(RESTART, line, hung, where))


def _client() -> Any:
    """Return the coordination service's client; None after the end of `jax.distributed`."""
    return distributed.global_state.client
