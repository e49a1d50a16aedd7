"""Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once."""

import signal
from types import FrameType

import jax
import numpy as np


class Interrupted(Exception):
    """A run was asked to stop, has saved `step` and can be resumed by the same command.

    `exit_status` is 128 + the signal's number: 143 after SIGTERM, on which the launch scripts
    queue the job again.
    """

    def __init__(self, number: signal.Signals, step: int):
        super().__init__(f"{number.name}: saved step {step}; the same command goes on from there")
        self.exit_status = 128 + number


class StopRequest:
    """A context that turns the first SIGINT or SIGTERM into a flag."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    def asked(self, *, agree: bool) -> signal.Signals | None:
        """Return the signal that asks the run to stop after this step, or None.

        Processes must stop after the same step, and a scheduler may signal one of them alone: with
        several, the answer is None but at steps where all of them call this with `agree`.
        """
        if jax.process_count() == 1:
            return self._received
        if not agree:
            return None
        from jax.experimental import multihost_utils

        numbers = multihost_utils.process_allgather(np.int32(self._received or 0))
        highest = int(numbers.max())
        return signal.Signals(highest) if highest else None

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
