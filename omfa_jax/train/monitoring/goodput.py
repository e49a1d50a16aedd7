"""Where a run's wall time goes: steps, data, saves, images, evaluation, and lost time (goodput)."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath

log = logging.getLogger(__name__)

# medians of step times may add up to slightly more than the elapsed time
SLACK = 1.1
# how far the clocks of hosts that share a workdir may differ, in seconds
MAX_SKEW_S = 5.0
# the workdir's file with the time of the run's first start
START_FILE = "began"


def read_start_time(workdir: AnyPath) -> float:
    """Return when the run in `workdir` first started (time.time()); now if it is new."""
    mark = workdir / START_FILE
    try:
        began = float(mark.read_text())
        if math.isfinite(began) and began > 0:
            return began
    except (FileNotFoundError, ValueError):
        pass
    except OSError as error:
        # the file server may be slow for a moment: never overwrite a mark that may exist
        log.warning("%s: %s; goodput is measured from now", mark, error)
        return time.time()
    now = time.time()
    # processes that start together all write; the last rename wins, and later starts read it
    try:
        with atomic_write(mark) as temporary:
            temporary.write_text(f"{now}\n")
    except OmfaError as error:
        log.warning("%s; goodput will be measured from the next start", error)
    return now


class Clock:
    """Times one process's run, in seconds of wall time.

    `began` is when the run first started (time.time), before all restarts. Goodput is the share of
    the time since then that went into steps whose result was kept. The wall clock is read once, so
    adjusting it later has no effect. If it was set back since the run started, goodput is unknown
    and a warning is logged.
    """

    def __init__(
        self,
        began: float,
        *,
        now: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ):
        self._now = now
        # the run's age when this process started
        self._before, self._start = wall() - began, now()
        if -MAX_SKEW_S < self._before < 0:
            self._before = 0.0
        self._has_warned = False
        self._spent: dict[str, float] = defaultdict(float)
        self._steps: list[float] = []
        self._last: float | None = None
        self._apart = 0.0
        self._waited = 0.0
        # seconds since the first step in which this host did something other than wait
        self.own_s = 0.0
        self._typical: list[float] = []
        self._data_mark = 0.0
        self._window_mark = now()

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Count the time inside as `kind`: data, device, compile, save, pictures, evaluation, ...

        Step times exclude all of these except data, for which the device waits too, and device.
        """
        start = self._now()
        yield
        took = self._now() - start
        self._spent[kind] += took
        if kind in ("data", "device"):
            self._waited += took
        else:
            self._apart += took

    @property
    def data_s(self) -> float:
        """Seconds that this process has waited for its data."""
        return self._spent["data"]

    def record_step(self) -> None:
        """Record the time since the previous call as that of one step."""
        now = self._now()
        if self._last is not None:
            took = now - self._last - self._apart
            self._steps.append(took)
            self.own_s += max(0.0, took - self._waited)
        self._last, self._apart, self._waited = now, 0.0, 0.0

    def compute_metrics(self, step: int) -> dict[str, float]:
        """Return the metrics since the last call, and the run's goodput at `step`."""
        figures: dict[str, float] = {}
        elapsed = self._now() - self._window_mark
        waited = self._spent["data"] - self._data_mark
        if self._steps:
            seconds = np.array(self._steps)
            for name, q in (("p50", 50), ("p95", 95), ("max", 100)):
                figures[f"step_seconds/{name}"] = float(np.percentile(seconds, q))
            # a process's first steps may be slow, which the median leaves out
            self._typical.append(float(np.median(seconds)))
            useful = step * float(np.median(self._typical))
            total = self._before + self._now() - self._start
            if self._before >= 0 and useful <= SLACK * total:
                figures["goodput"] = min(1.0, useful / total)
            elif not self._has_warned:
                self._has_warned = True
                log.warning(
                    "no goodput: according to file %r and the clock the run took %.0f s, but its %d"
                    " steps take %.0f s; the clock was set back, or earlier hosts were faster",
                    *(START_FILE, total, step, useful),
                )
        if elapsed > 0:
            figures["data_wait"] = min(1.0, waited / elapsed)
        for kind in ("compile", "save", "restore", "pictures", "evaluation"):
            if self._spent[kind]:
                figures[f"seconds/{kind}"] = self._spent[kind]
        self._steps = []
        self._data_mark, self._window_mark = self._spent["data"], self._now()
        return figures
