"""Processes that start with everything imported: forked from one that imported it once.

Importing jax, flax and orbax costs a process three seconds, which the tests of several hosts would
pay for each of them. A server imports them once per pytest worker, before any backend or thread of
JAX exists, and forks a process for each request; from there on a process is like any other: its
own arguments, environment, streams and backend.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMPORTABLE = {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
IMPORTS = (
    "omfa_jax.cli.logs",
    "omfa_jax.cli.train",
    "omfa_jax.parallel.distributed",
    "omfa_jax.train.loop",
    "tiny_training",
)
# prctl(2): orphans become children of this process instead of init
SET_CHILD_SUBREAPER = 36
_server: socket.socket | None = None


class Reader(threading.Thread):
    """Reads a pipe to its end, so that its writer never waits."""

    def __init__(self, pipe: int) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._content = b""
        self.start()

    def run(self) -> None:
        with open(self._pipe, "rb") as file:
            self._content = file.read()

    def text(self) -> str:
        self.join()
        return self._content.decode()


class WarmProcess:
    """What these tests need of a subprocess.Popen whose output is captured as text."""

    def __init__(
        self, program: str, arguments: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.returncode: int | None = None
        environment = {**IMPORTABLE, **(os.environ if environment is None else environment)}
        request = {"program": program, "arguments": arguments, "environment": environment}
        message = json.dumps({**request, "cwd": os.getcwd()}).encode()
        server = start_server()
        ends = [os.pipe() for _ in range(2)]
        self._readers = [Reader(reading) for reading, _ in ends]
        adopt_orphans(True)
        try:
            size = len(message).to_bytes(8, "big")
            socket.send_fds(server, [size], [writing for _, writing in ends])
            server.sendall(message)
            self.pid = int.from_bytes(receive(server, 8), "big")
        finally:
            adopt_orphans(False)
            for _, writing in ends:
                os.close(writing)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a warm process", timeout or 0)
            time.sleep(0.01)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (reader.text() for reader in self._readers)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def adopt_orphans(adopt: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def start_server() -> socket.socket:
    """Start this worker's server; return the connection to it."""
    global _server
    if _server is None:
        _server, theirs = socket.socketpair()
        environment = {**os.environ, **IMPORTABLE}
        command = [sys.executable, str(HERE / "warm_process.py"), str(theirs.fileno())]
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(stop_server, process)
    return _server


def stop_server(process: subprocess.Popen[bytes]) -> None:
    if _server is not None:
        _server.close()
    process.wait()


def receive(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def serve(connection: socket.socket) -> dict[str, Any]:
    """Answer requests until the worker is gone; return, in each forked process, its request."""
    while True:
        try:
            head, streams, _, _ = socket.recv_fds(connection, 8, 2)
            head += receive(connection, 8 - len(head))
        except EOFError:
            os._exit(0)
        request = json.loads(receive(connection, int.from_bytes(head, "big")))
        pid = fork_orphan()
        if not pid:
            connection.close()
            for stream, number in zip(streams, (1, 2), strict=True):
                os.dup2(stream, number)
                os.close(stream)
            return request
        for stream in streams:
            os.close(stream)
        connection.sendall(pid.to_bytes(8, "big"))


def fork_orphan() -> int:
    """Fork a process that the pytest worker adopts; return its id, and 0 in the process itself."""
    reading, writing = os.pipe()
    between = os.fork()
    if not between:
        pid = os.fork()
        if pid:
            os.write(writing, pid.to_bytes(8, "big"))
            os._exit(0)
        os.close(reading)
        os.close(writing)
        return 0
    # once this one is gone the process belongs to the worker
    os.waitpid(between, 0)
    pid = int.from_bytes(os.read(reading, 8), "big")
    os.close(reading)
    os.close(writing)
    return pid


def become(request: dict[str, Any]) -> dict[str, Any]:
    """Take over the request's arguments, folder and environment; return a fresh `__main__`."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-c", *request["arguments"]]
    # as for `python -c`
    sys.path[0] = ""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    return vars(main)


if __name__ == "__main__":
    for name in IMPORTS:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a process with threads must not fork"
    # what was imported is neither looked at nor copied in the forked processes
    gc.freeze()
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    exec(asked["program"], become(asked))
