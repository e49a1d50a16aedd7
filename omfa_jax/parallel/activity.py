"""What each process of a job is doing, as the others learn it from its beat (`hang_watcher`).

A process that waits for data is alive and beats, while all others wait for it in the step. So each
beat says at which step its process is, with what, and since when.
"""

import json
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

# the first batch needs the records opened and the workers started: so many times the limit
FIRST_BATCH = 5
# how much longer per step than the others' median makes a process worth a line: seconds, share
SLOWER_S, SLOWER = 0.05, 0.2
# with more processes the log has the median and the slowest instead of each
SHOWN_PROCESSES = 16


@dataclass(frozen=True)
class Beat:
    """One beat of a process. Times in seconds; `data_s` and `own_s` since its first step.

    `stage`: what it does for `step` ("start", "data", "step", "save", ...), since `stage_s`.
    `steps`: done by this process; `data_s`: it waited for its data; `own_s`: other work of its
    host's, in which its devices and the other processes waited. `saved`: its last checkpoint.
    """

    count: int = 0
    host: str = ""
    step: int = 0
    stage: str = "start"
    stage_s: float = 0.0
    steps: int = 0
    data_s: float = 0.0
    own_s: float = 0.0
    saved: int = 0

    def encode(self) -> str:
        """Return the text that `decode` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Beat":
        """Return the beat of a text."""
        return cls(**json.loads(text))

    @property
    def place(self) -> str:
        """What the process was last seen to do."""
        return f"{self.stage} of step {self.step}" if self.step else "start-up"


class Activity:
    """This process's own stage, set by the training loop and read by the thread that beats."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._now = Beat()
        self._since = clock()

    def enter(self, stage: str, step: int) -> None:
        """Note that `stage` of `step` begins."""
        self._since = self._clock()
        self._now = replace(self._now, stage=stage, step=step)

    def finish_step(self, data_s: float, own_s: float) -> None:
        """Note the end of a step, and the seconds so far of waiting for data and of own work."""
        now = self._now
        self._now = replace(now, steps=now.steps + 1, data_s=data_s, own_s=own_s)

    def note_save(self, step: int) -> None:
        """Note the step of the last checkpoint."""
        self._now = replace(self._now, saved=step)

    def make_beat(self, count: int, host: str) -> Beat:
        """Return the beat number `count`."""
        return replace(
            self._now, count=count, host=host, stage_s=round(self._clock() - self._since, 1)
        )


def find_stalled(beats: Mapping[int, Beat], hang_s: float) -> int | None:
    """Return the process that has waited for its data for `hang_s` while another waits for it.

    Of several, the one that has waited longest. None if all wait for data: that is the storage, and
    nobody is to blame. The first batch has `FIRST_BATCH` times as long.
    """
    late = {
        index: beat
        for index, beat in beats.items()
        if beat.stage == "data" and beat.stage_s >= hang_s * (1 if beat.steps else FIRST_BATCH)
    }
    stalled = [
        index
        for index, beat in late.items()
        if any(_get_position(other) > _get_position(beat) for other in beats.values())
    ]
    return max(stalled, key=lambda index: late[index].stage_s, default=None)


def is_all_waiting(beats: Mapping[int, Beat], seconds: float) -> bool:
    """Return True if every process has waited for data for that long."""
    return bool(beats) and all(
        beat.stage == "data" and beat.stage_s >= seconds for beat in beats.values()
    )


def _get_position(beat: Beat) -> tuple[int, int]:
    return beat.step, int(beat.stage != "data")


class PaceTable:
    """Seconds per step of each process between two rows of the log, from the beats of all."""

    def __init__(self) -> None:
        self._before: dict[int, Beat] = {}
        self._named: int | None = None

    def compare(self, beats: Mapping[int, Beat]) -> dict[int, tuple[float, float]]:
        """Return {process: (data, own) seconds per step since the last call}."""
        paces = {}
        for index, beat in sorted(beats.items()):
            then = self._before.get(index, Beat())
            steps = beat.steps - then.steps
            if steps > 0:
                paces[index] = (
                    max(0.0, beat.data_s - then.data_s) / steps,
                    max(0.0, beat.own_s - then.own_s) / steps,
                )
                self._before[index] = beat
        return paces

    def describe_slowest(
        self, paces: Mapping[int, tuple[float, float]], beats: Mapping[int, Beat], step_s: float
    ) -> str | None:
        """Return a line on the process that holds up the others; None if none does, or again."""
        if len(paces) < 2:
            return None
        slowest = max(paces, key=lambda index: sum(paces[index]))
        data_s, own_s = paces[slowest]
        others = statistics.median(sum(p) for index, p in paces.items() if index != slowest)
        if data_s + own_s - others < max(SLOWER_S, SLOWER * step_s):
            self._named = None
            return None
        if self._named == slowest:
            return None
        self._named = slowest
        return (
            f"process {slowest} on {beats[slowest].host} holds up the others: of each step it waits"
            f" {data_s:.2f} s for its data and spends {own_s:.2f} s on its host; the others' median"
            f" is {others:.2f} s"
        )


def format_paces(paces: Mapping[int, tuple[float, float]]) -> dict[str, float]:
    """Return the log's values, in seconds per step: of each process, or of many the extremes."""
    rows: dict[str, float] = {}
    for place, name in enumerate(("data_seconds", "host_seconds")):
        column = {index: pace[place] for index, pace in paces.items()}
        if len(column) <= SHOWN_PROCESSES:
            rows |= {f"{name}/process_{index}": value for index, value in column.items()}
        elif column:
            values = sorted(column.values())
            rows |= {f"{name}/median": statistics.median(values), f"{name}/max": values[-1]}
            rows[f"{name}/max_process"] = max(column, key=lambda index: column[index])
    return rows


def describe_main_thread() -> str:
    """Return where the main thread of this process is, innermost call first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    calls = traceback.extract_stack(frame)[-3:] if frame else []
    return " < ".join(
        f"{call.name} ({call.filename.rpartition('/')[2]}:{call.lineno})"
        for call in reversed(calls)
    )


# of this process
here = Activity()
