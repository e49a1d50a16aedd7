"""Handle Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: save and stop after the step."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import jax

from omfa_jax.core.startup_signals import get_stop_signals

# A second Ctrl-C stops at once. A launcher's copy of the first one, and a finger's, come earlier.
SECOND_S = 2.0


class TrainingInterrupt(Exception):
    """Raised when a run was asked to stop and has saved `step`; the same command resumes it.

    `exit_status` is 130 after SIGINT; after the others 143, at which the launch scripts requeue the
    job.
    """

    def __init__(self, number: signal.Signals, step: int):
        super().__init__(f"{number.name}: saved step {step}; run the same command to resume")
        self.exit_status = 128 + (number if number == signal.SIGINT else signal.SIGTERM)


class StopRequest:
    """A context that turns signals into a request to stop after a step.

    Several processes must stop after the same step, but a scheduler may signal only one of them.
    They agree through JAX's preemption service, which watches for SIGTERM from
    `jax.distributed.initialize` on; the other signals are therefore passed on as a SIGTERM.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._alone = jax.process_count() == 1
        self._clock = clock
        self._received: signal.Signals | None = None
        self._interrupted_s: float | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, *get_stop_signals()):
            # of several processes SIGTERM stays with the preemption service, which handles it in
            # C++
            if self._alone or number != signal.SIGTERM:
                self._before[number] = signal.signal(number, self._handle)
        return self

    # only notes the signal: Python may run a handler between any two bytecodes of the step
    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = self._clock()
            if self._interrupted_s is not None and now - self._interrupted_s >= SECOND_S:
                raise KeyboardInterrupt
            if self._interrupted_s is None:
                self._interrupted_s = now
        if self._received is None:
            self._received = signal.Signals(number)
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)

    def get_signal(self, step: int) -> signal.Signals | None:
        """Return the signal that asks the run to stop after `step`, or None.

        Call it after every step. With several processes the answer comes within a second or two of
        the signal, and at the same step on all of them.
        """
        if self._alone:
            return self._received
        # the service picks a step that no process has passed, a little after the signal
        from jax.experimental import multihost_utils

        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
