"""Profiler traces of chosen steps, for TensorBoard's profile tab, Perfetto or XProf."""

import logging
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, RemotePath
from omfa_jax.core.remote_dirs import upload_folder

log = logging.getLogger(__name__)

FOLDER = "profile"


@dataclass(frozen=True)
class ProfileSteps:
    """The steps to trace: `first` to `last`, inclusive, counted from 1."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "ProfileSteps":
        """Read "20" or "20-25"."""
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if not 1 <= first <= last:
            raise OmfaError(
                f"--profile takes a step or a range of steps, as 20 or 20-25, got {text!r}"
            )
        return cls(first, last)


class Profiler:
    """Starts and stops the trace; does nothing without `steps`.

    Each process writes a trace of its own devices to `workdir`/profile. For object storage it is
    written to TMPDIR and uploaded.
    """

    def __init__(self, steps: ProfileSteps | None, workdir: AnyPath):
        self._steps, self._folder, self._running = steps, workdir / FOLDER, False
        self._local: Path | None = None

    def before_step(self, step: int) -> None:
        """Start the trace if `step`, about to be dispatched, is the first chosen one.

        A run that resumes in the middle of the chosen steps traces the rest of them.
        """
        chosen = self._steps
        if chosen is not None and not self._running and chosen.first <= step <= chosen.last:
            self._running = self._try(self._start)

    def after_step(self, step: int, result: Any) -> None:
        """Stop the trace if `step` is the last chosen one, after its `result` is computed."""
        if self._running and self._steps is not None and step >= self._steps.last:
            # steps are dispatched ahead of the devices: the trace would end before they do
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Stop a trace that is still running."""
        if self._running:
            self._running = False
            if self._try(self._stop):
                log.info("trace written to %s; tensorboard --logdir shows it", self._folder)
            self._steps = None

    def _start(self) -> None:
        if isinstance(self._folder, RemotePath):
            self._local = Path(tempfile.mkdtemp(prefix="omfa-"))
        jax.profiler.start_trace(str(self._local or self._folder))

    def _stop(self) -> None:
        try:
            jax.profiler.stop_trace()
            if self._local is not None and isinstance(self._folder, RemotePath):
                upload_folder(self._local, self._folder)
        finally:
            if self._local is not None:
                shutil.rmtree(self._local, ignore_errors=True)

    def _try(self, work: Callable[[], object]) -> bool:
        """Call what starts or stops a trace; warn and return False if it fails, as on a full disk.

        Tracing is then turned off.
        """
        try:
            work()
        except Exception as error:  # of XLA's or the system's
            log.warning(
                "no trace in %s: %s; training continues",
                self._folder,
                " ".join(str(error).split())[:300],
            )
            self._steps = None
            return False
        return True
