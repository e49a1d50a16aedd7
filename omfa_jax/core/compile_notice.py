"""Say that a long compilation has begun, and keep XLA's box on slow compilation out of the log."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Hashable, Iterator

from omfa_jax.core import stderr_filter

log = logging.getLogger(__name__)

# XLA shows its box after two minutes of one compilation
FILTER_AFTER_S = 100.0
# the filter ends when its pipe is closed, unless a process that was started meanwhile holds it
FILTER_CLOSE_S = 5.0


@contextlib.contextmanager
def announce_compilation(what: str, *, enabled: bool = True) -> Iterator[None]:
    """Log that `what` is compiled inside, which may take minutes, and hide XLA's box on that.

    `enabled` False logs nothing, for processes whose siblings say it.
    """
    if enabled:
        log.info("compiling %s; minutes for a large model", what)
    with hide_slow_compile_box():
        yield


class CompilationNotice:
    """Announces the compilation of `what` at the first call for each key.

    with notice(shape):
        output = jitted(images)
    """

    def __init__(self, what: str):
        self._what = what
        self._seen: set[Hashable] = set()

    def __call__(self, *key: Hashable) -> contextlib.AbstractContextManager[None]:
        """Return the context of a call that compiles anew for each `key`."""
        if key in self._seen:
            return contextlib.nullcontext()
        self._seen.add(key)
        return announce_compilation(self._what)


@contextlib.contextmanager
def hide_slow_compile_box(after_s: float = FILTER_AFTER_S) -> Iterator[None]:
    """Filter XLA's box on slow compilation out of the process's stderr, from `after_s` seconds on.

    Everything else arrives, also what a crash writes last. If no process can be started for it,
    stderr stays as it is.
    """
    compilation = object()
    timer = threading.Timer(after_s, _SWAP.begin, [compilation])
    timer.daemon = True
    _SWAP.expect(compilation)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _SWAP.end(compilation)


class _StderrSwap:
    """Stderr's file descriptor, replaced by a pipe to the filter while any compilation is long.

    One for the process: with one for each of two that overlap, the second would give back the pipe
    of the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: set[object] = set()
        self._long: set[object] = set()
        self._kept: int | None = None
        self._filter: subprocess.Popen | None = None

    def expect(self, compilation: object) -> None:
        """Allow `begin` for a compilation."""
        with self._lock:
            self._expected.add(compilation)

    def begin(self, compilation: object) -> None:
        """Start the filter if it does not run; do nothing after `end`."""
        with self._lock:
            if compilation not in self._expected:
                return
            self._long.add(compilation)
            if self._filter is not None:
                return
            command = [sys.executable, "-I", "-S", stderr_filter.__file__]
            try:
                # a session of its own: Ctrl-C must not end it before the last lines
                self._filter = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError:
                return
            assert self._filter.stdin is not None
            self._kept = os.dup(2)
            os.dup2(self._filter.stdin.fileno(), 2)
            self._filter.stdin.close()

    def end(self, compilation: object) -> None:
        """After the last one, give stderr back and wait until the filter has written the rest."""
        with self._lock:
            self._expected.discard(compilation)
            self._long.discard(compilation)
            if self._long or self._filter is None or self._kept is None:
                return
            os.dup2(self._kept, 2)
            os.close(self._kept)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._filter.wait(FILTER_CLOSE_S)
            self._kept = self._filter = None


_SWAP = _StderrSwap()
