"""Best-effort writes (logs, curves, sample images) that never block or end a run."""

import collections
import logging
import threading
import time
from collections.abc import Callable

from omfa_jax.core.errors import OmfaError

log = logging.getLogger(__name__)

# how long the run waits for one write; usually it takes far less
PATIENCE_S = 1.0
# pause after a failed write
RETRY_S = 30.0
# how long the end of a run waits for pending writes
CLOSE_S = 5.0


class BackgroundWriter:
    """Runs writes in order, in its own thread.

    If they fail (a full disk) or hang (a file server), the run continues. One warning is logged, up
    to `kept` writes are queued and retried, and the oldest beyond that are dropped. When writes
    succeed again, the number of dropped ones is logged. `what` names the writes in these messages.
    """

    def __init__(self, what: str, *, kept: int = 1000, retry_s: float = RETRY_S):
        self._what, self._kept, self._retry_s = what, kept, retry_s
        self._waiting: collections.deque[Callable[[], object]] = collections.deque()
        self._changed = threading.Condition()
        self._lost = 0
        self._fails = self._is_late = self._ends = False
        self._thread = threading.Thread(
            target=self._run, daemon=True, name=f"background writer: {what}"
        )
        self._thread.start()

    def put(self, write: Callable[[], object]) -> None:
        """Queue `write`; wait until it is done, unless it is slow or writes are failing."""
        with self._changed:
            if len(self._waiting) >= self._kept:
                # the first may be running now, so drop the second
                del self._waiting[1 if self._kept > 1 else 0]
                self._lost += 1
            self._waiting.append(write)
            self._changed.notify_all()
            if self._fails or self._is_late:
                return
            done = self._changed.wait_for(lambda: not self._waiting or self._fails, PATIENCE_S)
            if not done:
                self._is_late = True
                log.warning(
                    "%s: a write has not finished after %g s; training continues without it",
                    *(self._what, PATIENCE_S),
                )

    def close(self, seconds: float = CLOSE_S) -> None:
        """Finish pending writes within `seconds`; log how many were not written."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join(seconds)
        lost = self._lost + len(self._waiting)
        if self._waiting or (self._fails and lost):
            log.warning("%s: %d were not written", self._what, lost)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ends)
                if not self._waiting:
                    return
                write = self._waiting[0]
            try:
                write()
            except (OSError, OmfaError) as error:
                if self._failed(error):
                    return
                continue
            except Exception as error:
                # not an I/O error, so a retry would fail too
                self._lost += 1
                log.warning("%s: skipped one: %s: %s", self._what, type(error).__name__, error)
            self._succeeded(write)

    def _failed(self, error: Exception) -> bool:
        """Wait for the next retry; return True if there is none because the run ends."""
        with self._changed:
            if not self._fails:
                log.warning(
                    "%s: cannot be written (%s); training continues, retrying every %g s",
                    *(self._what, error, self._retry_s),
                )
            self._fails = True
            self._changed.notify_all()
            if self._ends:
                return True
            until = time.monotonic() + self._retry_s
            self._changed.wait_for(lambda: self._ends, max(0.0, until - time.monotonic()))
            return False

    def _succeeded(self, write: Callable[[], object]) -> None:
        with self._changed:
            if self._waiting and self._waiting[0] is write:
                self._waiting.popleft()
            if self._fails or (self._is_late and not self._waiting):
                log.warning(
                    "%s: writing works again; %s lost",
                    *(self._what, f"{self._lost} were" if self._lost else "none was"),
                )
                self._fails = self._is_late = False
                self._lost = 0
            self._changed.notify_all()
