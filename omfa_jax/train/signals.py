"""Handle Ctrl-C and SIGTERM: save and stop after the step; a second Ctrl-C stops at once."""

import os
import signal
from types import FrameType

import jax


class TrainingInterrupt(Exception):
    """Raised when a run was asked to stop and has saved `step`; the same command resumes it.

    `exit_status` is 128 + the signal's number: 143 after SIGTERM, at which the launch scripts
    requeue the job.
    """

    def __init__(self, number: signal.Signals, step: int):
        super().__init__(f"{number.name}: saved step {step}; run the same command to resume")
        self.exit_status = 128 + number


class StopRequest:
    """A context that turns SIGINT and SIGTERM into a request to stop after a step.

    Several processes must stop after the same step, but a scheduler may signal only one of them.
    They agree through JAX's preemption service, which watches for SIGTERM from
    `jax.distributed.initialize` on; a SIGINT is therefore passed on as a SIGTERM.
    """

    def __init__(self) -> None:
        self._alone = jax.process_count() == 1
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
        # with several processes SIGTERM stays with the preemption service, which handles it in C++
        if self._alone:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
        return self

    # only notes the signal: Python may run a handler between any two bytecodes of the step
    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
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
