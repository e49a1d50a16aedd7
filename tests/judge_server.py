"""A judge's server on 127.0.0.1 that behaves as it is told, and counts what it was asked."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omfa_jax.core.images import write_image
from omfa_jax.evals.judge.settings import JudgePair, JudgeSettings, TokenPrices

KEY = "sk-secret/very+secret=="
GOOD = '{"score": 7.5, "reason": "the collar is too wide"}'


@dataclass
class Answer:
    """What one request gets: a status, a body, headers; or a connection that is dropped."""

    text: str | None = GOOD
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: str = ""  # "before" or "inside" the answer; "drip" sends it byte by byte
    wait_s: float = 0.0
    tokens: tuple[int, int] | None = (1000, 100)
    finish: str = "stop"

    def encoded(self) -> bytes:
        """Return the body: a chat completion around the text unless a body is given."""
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.text}
        content: dict = {"choices": [{"message": message, "finish_reason": self.finish}]}
        if self.tokens:
            content["usage"] = dict(
                zip(("prompt_tokens", "completion_tokens"), self.tokens, strict=True)
            )
        return json.dumps(content).encode()


@dataclass
class Server:
    """The address, every request's fields and headers, the answers, and the most at once."""

    url: str
    script: Callable[[int, dict], Answer]
    requests: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    open: int = 0
    most_open: int = 0


@contextlib.contextmanager
def serving(script: Callable[[int, dict], Answer]) -> Iterator[Server]:
    """Serve; `script` gets the number of the request and its fields."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append(fields)
                server.headers.append({**self.headers, "path": self.path})
                server.open += 1
                server.most_open = max(server.most_open, server.open)
            answer = script(number, fields)
            time.sleep(answer.wait_s)
            with lock:
                server.open -= 1
                server.answers.append(answer)
            with contextlib.suppress(OSError):  # the other side may have left
                self.send(answer)

        def send(self, answer):
            if answer.drop == "before":
                self.connection.close()
                return
            body = answer.encoded()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if answer.drop == "drip":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            else:
                self.wfile.write(body[: len(body) // 2] if answer.drop == "inside" else body)

        def log_message(self, *args):
            pass

        def finish(self):
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.handle_error = lambda *args: None
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}/v1", script)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def some_pairs(folder: Path, count: int) -> list[JudgePair]:
    """Write `count` garments and generated pictures of their own."""
    pairs = []
    for index in range(count):
        paths = [folder / kind / f"{index:05d}.png" for kind in ("garments", "pred")]
        for shift, path in enumerate(paths):
            write_image(path, np.full((32, 24, 3), (2 * index + shift) % 256, np.uint8))
        pairs.append(JudgePair(f"{index:05d}", *paths))
    return pairs


def quick(server_url: str, cache: Path, **changed) -> JudgeSettings:
    """Return settings without waits: a request costs $0.01 at 1000 tokens in and 100 out."""
    usual = {
        "url": server_url,
        "model": "tester",
        "setting": "paired",
        "cache": cache,
        "prices": TokenPrices(9.0, 10.0),
        "cost_cap_usd": 100.0,
        "key": KEY,
        "backoff_s": 0.001,
        "timeout_s": 10.0,
        "max_tokens": 100,
    }
    return JudgeSettings(**{**usual, **changed})
