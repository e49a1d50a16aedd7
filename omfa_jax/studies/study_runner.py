"""The local runner of a study: one process a run, sequentially or several in parallel."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import IO, Any

from omfa_jax.core.atomic_files import is_locked
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import RESTART
from omfa_jax.core.paths import AnyPath
from omfa_jax.studies.run_results import clear_failure, get_run_state, read_failure, read_result
from omfa_jax.studies.study_manifest import Study, StudyRun

log = logging.getLogger(__name__)

LOG = "log.txt"
# a run whose runner was killed gets this long to save and exit
WAIT_SECONDS = 120
PR_SET_PDEATHSIG = 1
# after a temporary error: the number of restarts, and the wait before each
RESTARTS, RESTART_WAIT_S = 3, 10.0
# environment variables of a run: the process id of its runner, and its CPU cores
RUNNER = "OMFA_STUDY_RUNNER"
CORES = "OMFA_STUDY_CORES"
GPUS = "CUDA_VISIBLE_DEVICES"
STARTS = {"planned": "starting", "begun": "resuming", "failed": "retrying"}


class StudyRunner:
    """Runs the unfinished runs of a study, each by `command STUDY --only RUN`."""

    def __init__(self, folder: AnyPath, study: Study, command: Sequence[str]):
        self.folder, self.study, self.command = folder, study, command
        self._children: dict[str, subprocess.Popen] = {}
        self._asked: signal.Signals | None = None

    def run(self, *, retry_failed: bool, parallel: int = 1) -> None:
        """Run everything that is neither finished nor failed, `parallel` runs at a time.

        Parallel runs get separate shares of the cores and GPUs. At the end, raises an OmfaError
        that lists failed and crashed runs; after SIGINT or SIGTERM raises `RunnerInterrupt`, when
        all runs have saved.
        """
        # a queue of shares: the run that ends first frees its cores and GPUs for the next
        free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for share in split_machine(
            parallel, cores=get_available_cores(), gpus=get_available_gpus()
        ):
            free.put(share)
        before: dict[signal.Signals, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, self._handle)
        try:
            with ThreadPoolExecutor(parallel) as pool:
                ends = [
                    pool.submit(self._run_one, index, retry_failed, free)
                    for index in range(len(self.study.runs))
                ]
            unfinished = [line for end in ends if (line := end.result())]
        finally:
            # a program that calls the runner keeps its own handlers
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._asked is not None:
            raise RunnerInterrupt(self._asked)
        if unfinished:
            raise OmfaError(
                f"{len(unfinished)} of {len(self.study.runs)} runs are not finished:\n  "
                + "\n  ".join(unfinished)
                + f"\nlogs: {self.folder}/runs/RUN/{LOG}; restart failed runs with --retry-failed"
                " and crashed ones with the same command"
            )

    def _run_one(self, index: int, retry_failed: bool, free: SimpleQueue[Mapping[str, str]]) -> str:
        """Run one run on a free share of the machine; return why it is not finished, or ""."""
        if self._asked is not None:
            return ""
        run = self.study.runs[index]
        place = f"[{index + 1}/{len(self.study.runs)}] {run.name}"
        share = free.get()
        try:
            why = self._run_on(run, place, share, retry_failed)
        except (OmfaError, OSError) as error:
            # the other runs continue; this one is reported at the end
            why = str(error)
        finally:
            free.put(share)
        if why:
            log.warning("%s: %s", place, why)
            return f"{run.name}: {why}"
        return ""

    def _run_on(
        self, run: StudyRun, place: str, share: Mapping[str, str], retry_failed: bool
    ) -> str:
        state = get_run_state(self.folder, run)
        if state == "finished":
            read_result(self.folder, run)
            log.info("%s: finished", place)
            return ""
        if state == "failed" and not retry_failed:
            return read_failure(self.folder, run)
        log.info("%s: %s, %s steps", place, STARTS[state], f"{run.steps:,}")
        began = time.monotonic()
        status = self._start(run, share)
        for restart in range(1, RESTARTS + 1):
            if status != RESTART or self._asked is not None:
                break
            log.warning("%s: ended with status %d; restart %d", place, status, restart)
            time.sleep(RESTART_WAIT_S)
            status = self._start(run, share)
        state = get_run_state(self.folder, run)
        if state == "finished":
            loss = read_result(self.folder, run).losses["loss"]
            log.info("%s: held-out loss %.5f, %.0f s", place, loss, time.monotonic() - began)
            return ""
        if self._asked is not None:
            log.info("%s: stopped", place)
            return ""
        return (
            read_failure(self.folder, run) if state == "failed" else f"crashed with status {status}"
        )

    def _start(self, run: StudyRun, share: Mapping[str, str]) -> int:
        """Run one run in a child process, which ends with this one; return its exit status.

        If a run of an earlier, killed runner is still running, wait until it has saved and exited.
        """
        workdir = self.folder / run.workdir
        workdir.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + WAIT_SECONDS
        while is_locked(workdir):
            if self._asked is not None:
                return 128 + self._asked
            if time.monotonic() > deadline:
                raise OmfaError(f"another process is training in {workdir}; stop it first")
            time.sleep(0.5)
        # if this attempt is killed, the same command resumes the run
        clear_failure(self.folder, run)
        with _open_log(workdir / LOG) as file:
            child = subprocess.Popen(
                [*self.command, str(self.folder), "--only", run.name],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **share, RUNNER: str(os.getpid())},
                # a terminal sends Ctrl-C to the foreground group: only this process passes it on
                process_group=0,
            )
            self._children[run.name] = child
            # a signal that came before the child was in the table
            if self._asked is not None:
                child.send_signal(self._asked)
            status = child.wait()
            del self._children[run.name]
        return status

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = signal.Signals(number)
        # the runs save and exit; `run` returns when the last of them has
        for child in list(self._children.values()):
            child.send_signal(self._asked)


@contextlib.contextmanager
def _open_log(path: AnyPath) -> Iterator[IO[str]]:
    """Open a run's log to append; that of a bucket is in TMPDIR until the run's process ends."""
    if isinstance(path, Path):
        with path.open("a") as file:
            yield file
        return
    with tempfile.NamedTemporaryFile("w+", prefix="omfa-", suffix=".log") as file:
        with contextlib.suppress(FileNotFoundError):
            file.write(path.read_text(errors="replace"))
        file.flush()
        log.info("the log of %s is in %s until the run ends", path.parent.name, file.name)
        try:
            yield file
        finally:
            path.upload(file.name)


class RunnerInterrupt(Exception):
    """The runner was asked to stop, and its active runs have saved."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"{number.name}: stopped; run the same command to resume")
        self.exit_status = 128 + number


def get_available_cores() -> list[int]:
    """Return the cores that this process may use; [] if the system does not report them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def get_available_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if GPUS in os.environ:
        return [name for name in os.environ[GPUS].split(",") if name and name != "-1"]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def split_machine(count: int, *, cores: Sequence[int], gpus: Sequence[str]) -> list[dict[str, str]]:
    """Split the machine into `count` shares, each as environment variables of a run.

    A single share is unrestricted. Raises an OmfaError if there are fewer cores or GPUs than
    shares.
    """
    if count < 1:
        raise OmfaError(f"--parallel must be 1 or more, got {count}")
    found: list[dict[str, str]] = [{} for _ in range(count)]
    if count == 1:
        return found
    for variable, kind, have in ((CORES, "cores", cores), (GPUS, "GPUs", gpus)):
        if have and len(have) < count:
            raise OmfaError(f"--parallel {count}: this machine has only {len(have)} {kind}")
        for index, share in enumerate(found):
            low, high = (len(have) * place // count for place in (index, index + 1))
            if have:
                share[variable] = ",".join(str(one) for one in have[low:high])
    return found


def apply_core_share() -> None:
    """Restrict this process to the cores that its runner assigned; call before importing jax."""
    cores = os.environ.pop(CORES, "")
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def terminate_with_runner() -> None:
    """Have the kernel send SIGTERM when the runner that started this process dies.

    Linux only; elsewhere a run outlives a killed runner, and the next runner waits for it.
    """
    runner = os.environ.pop(RUNNER, "")
    if runner and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # the runner may have died before the call
        if os.getppid() != int(runner):
            sys.exit(128 + signal.SIGTERM)
