"""A proxy in front of a server of gs:// that injects the faults of a bucket, in a seeded way.

It forwards requests to the server, and does one of `KINDS` to a share of them.
"""

import contextlib
import http.client
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from gs_emulator import make_environment

KINDS = {
    "429": "refused: too many requests",
    "500": "refused: an error of the server",
    "503": "refused: unavailable",
    "503 done": "done, but answered with 503",
    "401": "refused: the token has expired",
    "reset": "the connection is reset before the request is read",
    "lost reply": "done, then the connection is reset",
    "half upload": "the connection is reset in the middle of what is sent",
    "half download": "the connection is reset in the middle of the answer",
    "slow": "answered late",
    "stale listing": "a listing as it was before",
}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Fault:
    """One kind of fault for a share of the requests whose `METHOD URL` matches `only`.

    The first `after` of them are spared, and it happens `most` times.
    """

    kind: str
    share: float = 0.1
    most: float = float("inf")
    after: int = 0
    only: str = ""
    seconds: float = 1.0
    seed: int = 0

    def __post_init__(self):
        self._rng, self._lock = random.Random(self.seed), threading.Lock()
        self.met = self.injected = 0

    def draw(self, request: str, has_body: bool) -> bool:
        """Return whether this request meets the fault."""
        suits = {"half upload": has_body, "stale listing": "prefix=" in request}
        # an object's content is longer than any other answer
        suits["half download"] = "alt=media" in request or "/download/" in request
        if not suits.get(self.kind, True) or not re.search(self.only, request):
            return False
        with self._lock:
            self.met += 1
            hit = self.met > self.after and self.injected < self.most
            hit = hit and self._rng.random() < self.share
            self.injected += hit
            return hit


class StorageProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; `fault` may be exchanged at any time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, fault: Fault | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.fault = upstream, fault
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: Counter[str] = Counter()
        self.listings: dict[str, tuple[int, list, bytes]] = {}

    def handle_error(self, request, client_address):
        """Say nothing: connections that break are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StorageProxy

    def log_message(self, format, *args):
        pass

    def _handle(self):
        length = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "")
        fault, request = self.server.fault, f"{self.command} {self.path}"
        self.server.requests[self.command] += 1
        hit = fault is not None and fault.draw(request, bool(length) or chunked)
        kind = fault.kind if fault is not None and hit else ""
        if kind == "reset":
            return self._reset()
        if kind == "half upload":
            self.rfile.read(length // 2)
            return self._reset()
        body = self._read_chunks() if chunked else self.rfile.read(length)
        if kind in ("429", "500", "503", "401"):
            return self._refuse(int(kind))
        if kind == "slow" and fault is not None:
            time.sleep(fault.seconds)
        old = self.server.listings.get(self.path)
        status, headers, answer = self._forward(body)
        if self.command == "GET" and "prefix=" in self.path:
            self.server.listings[self.path] = (status, headers, answer)
            if kind == "stale listing" and old is not None:
                status, headers, answer = old
        if kind == "lost reply":
            return self._reset()
        if kind == "503 done":
            return self._refuse(503)
        self._answer(status, headers, answer, cut=kind == "half download")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes) -> tuple[int, list, bytes]:
        upstream = urlsplit(self.server.upstream)
        kept = {name: v for name, v in self.headers.items() if name.lower() not in _HOP}
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, {**kept, "Host": upstream.netloc})
            response = connection.getresponse()
            answer = response.read()
            # uploads in parts go on at the address that the server says
            return (
                response.status,
                [
                    (name, value.replace(self.server.upstream, self.server.url))
                    for name, value in response.getheaders()
                    if name.lower() not in _HOP
                ],
                answer,
            )

    def _refuse(self, status: int) -> None:
        # gcsfs asks for a new token if the store says these words, and gives up otherwise
        words = "Invalid Credentials" if status == 401 else "injected"
        answer = {"error": {"code": status, "message": words}}
        self._answer(status, [], json.dumps(answer).encode())

    def _answer(self, status: int, headers: list, answer: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[: len(answer) // 2] if cut else answer)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # not `shutdown`, which would end it in order
        self.rfile.close()
        self.wfile.close()
        self.connection.close()


@contextlib.contextmanager
def start_proxy(upstream: str, fault: Fault | None = None) -> Iterator[StorageProxy]:
    """Yield a running proxy in front of the server at the URL `upstream`."""
    with StorageProxy(upstream, fault) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


@contextlib.contextmanager
def use_store(url: str) -> Iterator[None]:
    """Let the clients of gs:// that this process opens meanwhile talk to `url`."""
    before = {name: os.environ.get(name) for name in make_environment(url)}
    os.environ.update(make_environment(url))
    _forget_clients()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        _forget_clients()


def _forget_clients() -> None:
    import gcsfs

    from omfa_jax.core import remote_path

    remote_path._open_file_system.cache_clear()
    gcsfs.GCSFileSystem.clear_instance_cache()
