"""Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once."""

import signal
from types import FrameType


class Interrupted(Exception):
    """A run was asked to stop, has saved `step` and can be resumed by the same command."""

    def __init__(self, number: signal.Signals, step: int):
        super().__init__(f"{number.name}: saved step {step}; the same command goes on from there")
        self.exit_status = 128 + number


class StopRequest:
    """A context that turns the first SIGINT or SIGTERM into a flag."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
