"""Bound what visitors upload: one photo of limited size at a time, and so many within the hour."""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from omfa_jax.app.settings import AppLimits

# the form around a file
FORM_BYTES = 2**16


class UploadGuard:
    """ASGI middleware that answers an upload beyond the limits with a line of text.

    Gradio limits the size of each file, but not how many come in a request or in an hour; they
    would fill the server's disk until they are removed.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        limits: AppLimits,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._app, self._limits, self._clock = app, limits, clock
        self._times: deque[float] = deque()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        is_upload = scope["type"] == "http" and scope["method"] == "POST"
        if is_upload and scope["path"].rstrip("/").endswith("/upload"):
            status, why = self._judge(dict(scope["headers"]))
            if why:
                headers = [(b"content-type", b"text/plain; charset=utf-8")]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": why.encode()})
                return
        await self._app(scope, receive, send)

    def _judge(self, headers: dict[bytes, bytes]) -> tuple[int, str]:
        limits, now = self._limits, self._clock()
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "an upload must state its size"
        if int(length) > limits.upload_mb * 2**20 + FORM_BYTES:
            return 413, f"upload one photo of at most {limits.upload_mb} MB at a time"
        while self._times and now - self._times[0] > limits.keep_s:
            self._times.popleft()
        if len(self._times) >= limits.uploads:
            minutes = max(1, round((limits.keep_s - now + self._times[0]) / 60))
            return (
                429,
                f"too many photos were uploaded to this page: try again in {minutes} minutes",
            )
        self._times.append(now)
        return 200, ""
