"""A client for the chat completions of OpenAI-compatible servers, and its kinds of failure.

It uses the standard library. The `openai` client would add six packages for one JSON POST without
streaming, and would not help with the difficult parts: its retries would have to be disabled,
because each attempt must pass the cost cap before it is sent and be counted afterwards, and the
ledger has to know whether a broken request may have been charged.
"""

import email.utils
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# far beyond an answer of a few hundred tokens: more is not a chat completion
from omfa_jax.core.json_text import parse_json

MAX_ANSWER_BYTES = 4 << 20
RETRYABLE_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses of temporary errors
FATAL_STATUSES = {401, 403, 404, 405}  # statuses that every other request would get too


@dataclass
class RequestError(Exception):
    """A request without an answer.

    `retryable`: worth another attempt. `fatal`: every other request would fail too. `maybe_paid`:
    the request was sent and its answer lost, so the server may charge for it.
    """

    reason: str
    retryable: bool = False
    fatal: bool = False
    maybe_paid: bool = False
    retry_after_s: float | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects: the POST would become a GET and send the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class ChatEndpoint:
    """The chat completions of a server. Thread-safe."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self.address = url.rstrip("/") + "/chat/completions"
        self.timeout_s = timeout_s
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self._open_at = 0.0

    def redact(self, text: str) -> str:
        """Return the text without the key, which servers may echo in their errors."""
        return text.replace(self._key, "[key]") if self._key else text

    def get_wait_s(self) -> float:
        """Return the seconds left of the last Retry-After."""
        with self._lock:
            return max(0.0, self._open_at - time.monotonic())

    def delay_all(self, seconds: float) -> None:
        """Delay the requests of all threads: a rate limit applies to all of them."""
        with self._lock:
            self._open_at = max(self._open_at, time.monotonic() + seconds)

    def post(self, fields: Mapping[str, Any]) -> bytes:
        """Send a request and return the body of its answer; RequestError if there is none."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = json.dumps(fields).encode()
        request = urllib.request.Request(self.address, body, headers, method="POST")
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._opener.open(request, timeout=self.timeout_s) as response:
                return self._read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._make_request_error(error) from None
        except urllib.error.URLError as error:
            # connecting or sending failed, so the server cannot have charged for it
            reason = self.redact(str(getattr(error.reason, "strerror", None) or error.reason))
            raise RequestError(f"the server cannot be reached: {reason}", retryable=True) from None
        except (OSError, http.client.HTTPException) as error:
            waited = isinstance(error, TimeoutError | socket.timeout)
            what = (
                f"no complete answer in {self.timeout_s:g} s"
                if waited
                else "the connection was lost"
            )
            raise RequestError(what, retryable=True, maybe_paid=True) from None

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """Read within the deadline; a socket timeout alone would restart with every byte."""
        parts, size = [], 0
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                # not retried: the server would send as much again, and charge again
                raise RequestError("the answer is larger than 4 MiB", maybe_paid=True)
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:  # fewer bytes than Content-Length announced
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _make_request_error(self, error: urllib.error.HTTPError) -> RequestError:
        try:
            text = error.read(1 << 16).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        message = self.redact(" ".join(_message(text).split()))[:300]
        reason = f"HTTP {error.code}" + (f": {message}" if message else "")
        # OpenAI's status for an empty account is that of a rate limit, but waiting does not help
        broke = error.code == 429 and "insufficient_quota" in text
        # a redirect that _NoRedirect refused: the address is wrong for every request
        moved = 300 <= error.code < 400
        return RequestError(
            reason,
            retryable=error.code in RETRYABLE_STATUSES and not broke,
            fatal=error.code in FATAL_STATUSES or broke or moved,
            retry_after_s=parse_retry_after(error.headers.get("Retry-After")),
        )


def _message(text: str) -> str:
    """Return the message of an error body in OpenAI's format, else the body."""
    try:
        return str(parse_json(text)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def parse_retry_after(value: str | None) -> float | None:
    """Return a Retry-After header (seconds or an HTTP date) as seconds from now, or None."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    # "nan" parses as a float
    return max(0.0, seconds) if seconds == seconds else None
