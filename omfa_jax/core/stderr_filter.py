"""Copy stdin to stderr without XLA's boxes on slow compilation; runs as a process of its own.

XLA writes the box as an error of its log. No flag turns it off, and a log level that hides it hides
every error of XLA. A process and not a thread: what a crashing program writes last still arrives.
"""

import os
import select
import signal
from collections.abc import Callable

# the source file that XLA's log names, the words of the box, and the row of stars around it
SOURCE, WORDS, STARS = b"slow_operation_alarm.cc:", b"low compile?", b"*" * 32
# a box has two rows of stars; other messages of that source have none and are passed on
MAX_BOX_LINES = 8
# XLA writes a message in one piece: what has not continued after this time is complete
QUIET_S = 0.2


class BoxFilter:
    """Passes bytes on to `write`, except boxes on slow compilation; `flush` after each message."""

    def __init__(self, write: Callable[[bytes], object]):
        self._write, self._rest = write, b""
        self._held: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line + b"\n")

    def flush(self) -> None:
        """Pass on what was held back, such as a line without its end."""
        self._release()
        rest, self._rest = self._rest, b""
        if rest:
            self._write(rest)

    def _take(self, line: bytes) -> None:
        if SOURCE in line:
            self._release()
            self._held = [line]
            return
        if not self._held:
            self._write(line)
            return
        self._held.append(line)
        if sum(held.strip() == STARS for held in self._held) == 2:
            if any(WORDS in held for held in self._held):
                self._held = []
            self._release()
        elif len(self._held) >= MAX_BOX_LINES:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        for line in held:
            self._write(line)


# Slurm sends these to every process of a job. The program may use one to save a checkpoint, and
# what it says on that passes through here.
IGNORED_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")


def write_all(data: bytes, descriptor: int = 2) -> None:
    """Write everything, also to a pipe that is full; drop it if nobody can take it.

    The program must not end, or block, because its log's disk is full or its reader has gone.
    """
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:
            return


def main() -> None:
    """Filter until the last writer has closed the pipe."""
    for name in IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    box = BoxFilter(write_all)
    while True:
        if not select.select([0], [], [], QUIET_S)[0]:
            box.flush()
            continue
        data = os.read(0, 65536)
        if not data:
            break
        box.feed(data)
    box.flush()


if __name__ == "__main__":
    main()
