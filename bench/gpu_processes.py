"""The worker processes of `bench/gpu.py`, and its clock."""

import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu_worker import PREFIX
from omfa_jax.parallel.xla_flags import (
    LEGACY_MEM_FRACTION,
    MEM_FRACTION,
    PREALLOCATE,
    set_platform_flags,
)

WORKER = Path(__file__).with_name("gpu_worker.py")
MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory", "DoesNotFit", "CUDA_ERROR_OU")
# of a process's last words, in an error
TAIL_LINES = 40
# of a GPU's memory, for a process that has it alone, and for two that share it
ALONE, SHARED = "0.92", "0.6"


# jaxlib 0.10.2's Triton products stop at shapes that they cannot tile (docs/plans.md)
NO_TILES = "output tile sizes"


class OutOfTime(Exception):
    """The time of the call is over."""


class WorkerError(Exception):
    """A worker failed; its text is one line."""

    @property
    def out_of_memory(self) -> bool:
        """Whether the device's memory was too small."""
        return any(word in str(self) for word in MEMORY_WORDS)


class Clock:
    """Seconds that are left of a call."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left; negative after the end."""
        return self.end - time.monotonic()


class Processes:
    """Starts workers; their logs and caches are in `out`."""

    def __init__(self, out: Path, clock: Clock, *, tiny: bool):
        self.out, self.clock, self.tiny = out, clock, tiny
        # XLA ends a process whose flags it does not know; `run_device` then drops them
        self.flags = not tiny
        self.triton = True

    def start(self, spec: Mapping[str, Any], *, shares: bool = False) -> "Worker":
        """Start a worker; two that share the GPU take its memory as they need it."""
        name = "-".join(str(value) for value in spec.values() if isinstance(value, str | int))
        log = self.out / "logs" / f"{name.replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Worker(spec, self.make_environment(shares=shares), log, self.clock)

    def make_environment(self, *, shares: bool) -> dict[str, str]:
        """Return the environment: caches in `out`, XLA's flags as omfa sets them, memory."""
        environment = dict(os.environ)
        cache = (self.out / "cache").absolute()
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        if self.tiny:
            environment.setdefault("JAX_PLATFORMS", "cpu")
        if self.flags:
            set_platform_flags("cuda", environment)
        if not self.triton:
            words = [environment.get("XLA_FLAGS", ""), "--xla_gpu_enable_triton_gemm=false"]
            environment["XLA_FLAGS"] = " ".join(words)
        if not {MEM_FRACTION, LEGACY_MEM_FRACTION, PREALLOCATE} & environment.keys():
            environment[MEM_FRACTION] = SHARED if shares else ALONE
            if shares:
                environment[PREALLOCATE] = "false"
        return environment


class Worker:
    """A process that answers one line with one line; a context manager that ends it."""

    def __init__(
        self, spec: Mapping[str, Any], environment: dict[str, str], log: Path, clock: Clock
    ):
        self.clock, self.log = clock, log
        self.answers: queue.Queue[str | None] = queue.Queue()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(PREFIX):
                self.answers.put(line)
        self.answers.put(None)

    def read(self) -> dict[str, Any]:
        """Return the next answer. OutOfTime, or WorkerError for an error or an exit."""
        try:
            line = self.answers.get(timeout=max(0.0, self.clock.left()))
        except queue.Empty:
            raise OutOfTime from None
        if line is None:
            raise WorkerError(f"exit status {self.process.wait()}: {self.read_last_words()}")
        answer = json.loads(line.removeprefix(PREFIX))
        if "failure" in answer:
            raise WorkerError(answer["failure"])
        return answer

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and return its answer."""
        assert self.process.stdin is not None
        # of a process that has ended, its answer, or the lack of one, says why
        with contextlib.suppress(OSError):
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        return self.read()

    def read_last_words(self) -> str:
        """Return the last line of the log that looks like a reason, shortened."""
        lines = collections.deque(self.log.read_text(errors="replace").splitlines(), TAIL_LINES)
        words = [line.strip() for line in lines if line.strip()]
        telling = [
            w for w in words if any(k in w for k in ("rror", "Unknown flag", "F0", "Killed"))
        ]
        return ((telling or words or ["it said nothing"])[-1])[:300] + f" (see {self.log})"

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        # a compiler's own helpers may hold the pipe a little longer
        self.listener.join(timeout=5)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if not self.listener.is_alive():
            self.process.stdout.close()
