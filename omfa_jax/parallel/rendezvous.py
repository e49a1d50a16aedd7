"""Start-up rendezvous: files in the workdir show which processes of a job are missing.

XLA aborts at its timeout without naming the missing processes. The workdir is all that
the processes share at that point.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, RemotePath

FOLDER = "joining"
# a process touches its mark every RENEW_S; one older than FRESH_S is from a dead process or attempt
RENEW_S, FRESH_S = 1.0, 5.0


class Rendezvous:
    """Context manager that marks this process as waiting for all `count` processes.

    After `seconds` it calls `late` with a line that names the missing ones.
    """

    def __init__(
        self, workdir: AnyPath, index: int, count: int, seconds: float, late: Callable[[str], None]
    ):
        self._folder = workdir / FOLDER
        self._mark = self._folder / str(index)
        self._count, self._seconds, self._late = count, seconds, late
        self._joined = threading.Event()

    def __enter__(self) -> "Rendezvous":
        # a mark of an earlier attempt may name another host
        with contextlib.suppress(OSError):
            self._mark.unlink(missing_ok=True)
        self._renew()
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._joined.set()

    def _renew(self) -> None:
        # a full or read-only disk must cost the message only, not the run
        with contextlib.suppress(OSError, OmfaError):
            if isinstance(self._mark, RemotePath):
                self._mark.write_text(socket.gethostname())
            elif self._mark.exists():
                os.utime(self._mark)
            else:
                with atomic_write(self._mark) as temporary:
                    temporary.write_text(socket.gethostname())

    def _wait(self) -> None:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            if self._joined.wait(RENEW_S):
                return
            self._renew()
        try:
            self._late(self.format_missing())
        except OSError as error:
            self._late(f"the missing processes are unknown ({error})")

    def format_missing(self) -> str:
        """Return a line that names the missing processes, with their hosts if known."""
        # compares two times of the file system's clock: hosts' own clocks differ
        now = self._mark.stat().st_mtime
        here = {}
        for mark in self._folder.glob("[0-9]*"):
            if now - mark.stat().st_mtime < FRESH_S:
                here[int(mark.name)] = mark.read_text()
        hosts = get_expected_hosts(self._count)
        absent = [
            f"process {i}{f' on {hosts[i]}' if hosts else ''}"
            for i in range(self._count)
            if i not in here
        ]
        came = ", ".join(f"{index} on {host}" for index, host in sorted(here.items()))
        return f"{', '.join(absent) or 'none'} of {self._count} missing; connected: {came}"


def get_expected_hosts(count: int) -> Sequence[str]:
    """Return each process's host as Slurm or GKE assigned it; empty if unknown."""
    names = [name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST")
    if not names and nodes and shutil.which("scontrol"):
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=20
        )
        names = shown.stdout.split()
    # a single name is this host's own
    if len(names) < 2 or count % len(names):
        return []
    return [names[index * len(names) // count] for index in range(count)]
