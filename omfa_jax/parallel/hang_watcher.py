"""Name a process that has stopped responding, before XLA ends all others without naming it.

Every process writes a beat to the coordination service, which process 0 runs. Process 0 looks for
beats that have stopped; the others look whether the service still answers, that is, at process 0.
A process that is stopped (SIGSTOP), frozen with its host or cut off beats no more. A collective
that waits is no hang: its process still beats. A process that others wait for because it waits for
its data beats too, and says so (`activity`).
"""

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jax._src import distributed

from omfa_jax.core.exit_status import RESTART
from omfa_jax.parallel import activity, job_exit, watcher_threads
from omfa_jax.parallel.activity import Beat

log = logging.getLogger(__name__)

ALIVE = "omfa/alive"
# seconds without a beat until a process is named, and seconds between beats
HANG_S, BEAT_S = 60, 2.0
TIMEOUT = "OMFA_HANG_TIMEOUT_S"


def start_hang_watcher(hang_s: int) -> None:
    """Start the threads that beat and watch; does nothing in a single-process job."""
    state = distributed.global_state
    if state.client is None or (state.num_processes or 1) < 2:
        return
    index, host = state.process_id or 0, socket.gethostname()
    watcher_threads.start_watcher(_beat, index, host, answered, name="beat")
    watcher_threads.start_watcher(_watch, index, hang_s, answered, name="hang")


@dataclass
class Answer:
    """The beats that the coordination service has accepted, and the last beats that were read.

    `beats`: {process index: its last beat}: on process 0 of all, on the others of process 0.
    """

    count: int = 0
    beats: dict[int, Beat] = field(default_factory=dict)


answered = Answer()


def get_beats() -> dict[int, Beat]:
    """Return the last beat of every process of the job, on process 0; {} in a job of one."""
    return dict(answered.beats)


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
            beat = activity.here.make_beat(answered.count, host)
            client.key_value_set(f"{ALIVE}/{index}", beat.encode(), True)
            answered.count += 1
            answered.beats = read_beats(client, None if index == 0 else 0)
        except jax.errors.JaxRuntimeError:
            # a late answer, or process 0 is gone: then XLA ends this process at once
            pass
        if watcher_threads.wait(BEAT_S):
            return


def read_beats(client: Any, index: int | None = None) -> dict[int, Beat]:
    """Return {process index: its last beat}; only that of process `index` if one is given."""
    if index is not None:
        return {index: Beat.decode(client.key_value_try_get(f"{ALIVE}/{index}"))}
    rows = client.key_value_dir_get(ALIVE)
    return {int(key.rpartition("/")[2]): Beat.decode(text) for key, text in rows}


def _watch(index: int, hang_s: int, answered: Answer) -> None:
    stillness = Stillness(gap_s=max(3 * BEAT_S, hang_s / 2))
    warned_s = float("-inf")
    while _client() is not None and not watcher_threads.wait(BEAT_S / 2):
        beats = dict(answered.beats)
        if index != 0:
            if stillness.find_still({0: answered.count}, hang_s):
                report_hang(0, beats.get(0, Beat()), hang_s)
            continue
        others = {key: beat.count for key, beat in beats.items() if key != 0}
        for hung in stillness.find_still(dict(others), hang_s):
            if _client() is not None:
                report_hang(hung, beats[hung], hang_s)
        stalled = activity.find_stalled(beats, hang_s)
        if stalled is not None and _client() is not None:
            report_stall(stalled, beats[stalled])
        if activity.is_all_waiting(beats, hang_s) and time.monotonic() - warned_s > hang_s:
            warned_s = time.monotonic()
            log.warning("all processes have waited for their data for %d s: the storage?", hang_s)


def report_hang(hung: int, beat: Beat, hang_s: int) -> None:
    """End the job because of a process that has stopped responding, with a line that names it."""
    line = (
        f"it has not responded for {hang_s} s: stopped, frozen or cut off ({TIMEOUT} sets the"
        f" time); last seen in the {beat.place}; {format_saved(beat)}"
    )
    address = distributed.global_state.coordinator_address or ""
    where = beat.host or address.rpartition(":")[0]
    job_exit.exit_because_of_hang(job_exit.JobExit(RESTART, line, hung, where))


def report_stall(stalled: int, beat: Beat) -> None:
    """End the job because of a process that gets no data, with a line that names it."""
    line = (
        f"it has waited {beat.stage_s:.0f} s for the {beat.place}, and the others for it ({TIMEOUT}"
        f" sets the time): its storage or a worker process of its data hangs; {format_saved(beat)}"
    )
    job_exit.exit_because_of_stall(job_exit.JobExit(RESTART, line, stalled, beat.host))


def format_saved(beat: Beat) -> str:
    """Return what a restart begins from."""
    # the others have given their state to the step that is under way, which needs this process
    return f"the last save was of step {beat.saved}" if beat.saved else "nothing was saved yet"


def _client() -> Any:
    """Return the coordination service's client; None after the end of `jax.distributed`."""
    return distributed.global_state.client
