"""Bound what visitors upload: the size of each request, and their number while files are kept."""

import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from omfa_jax.app.settings import AppLimits

# the form around a file
FORM_BYTES = 2**16


class UploadCounter:
    """Counts the uploads of all visitors whose files are still kept; for any thread."""

    def __init__(self, limits: AppLimits, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = limits, clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def count(self) -> str:
        """Count one upload, or return why there are too many; empty if it is counted."""
        keep_s = self._limits.keep_s
        with self._lock:
            now = self._clock()
            while self._times and now - self._times[0] > keep_s:
                self._times.popleft()
            if len(self._times) < self._limits.uploads:
                self._times.append(now)
                return ""
            minutes = max(1, round((keep_s - now + self._times[0]) / 60))
        return f"too many photos were uploaded to this page: try again in {minutes} minutes"


class UploadGuard:
    """ASGI middleware that answers an upload beyond the limits with a line of text.

    Gradio limits the size of each file, but not how many come in a request or in half an hour; they
    would fill the server's disk until they are removed. Files that come in one request are one
    upload: together they may be as large as one photo.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], limits: AppLimits, uploads: UploadCounter
    ):
        self._app, self._limits, self._uploads = app, limits, uploads

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
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "an upload must state its size"
        upload_mb = self._limits.upload_mb
        if int(length) > upload_mb * 2**20 + FORM_BYTES:
            return 413, f"upload one photo of at most {upload_mb} MB at a time"
        why = self._uploads.count()
        return (429, why) if why else (200, "")
