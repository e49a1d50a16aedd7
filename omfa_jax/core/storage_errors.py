"""Errors of the clients of object storage as OSError with an errno.

`core.exit_status` sorts them by it as it does those of a disk.
"""

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from omfa_jax.core.errors import OmfaError

_STATUS_ERRNOS = {
    400: errno.EINVAL,
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    412: errno.EEXIST,
    429: errno.EBUSY,
}
_WORDS = {
    401: "the credentials are not valid (expired?)",
    403: "permission denied",
    404: "no such object or bucket",
    429: "too many requests",
}

_GRPC_ERRNOS = {
    "UNAVAILABLE": errno.EHOSTUNREACH,
    "DEADLINE_EXCEEDED": errno.ETIMEDOUT,
    "ABORTED": errno.EREMOTEIO,
    "RESOURCE_EXHAUSTED": errno.EBUSY,
    "INTERNAL": errno.EREMOTEIO,
    "UNKNOWN": errno.EREMOTEIO,
    "PERMISSION_DENIED": errno.EACCES,
    "UNAUTHENTICATED": errno.EACCES,
}
_GRPC_STATUS = re.compile(rf"\b({'|'.join(_GRPC_ERRNOS)}): ")
# only of requests: TensorStore says such words of broken files, too
_STORE = re.compile(r"gs://|gcs|http_response_code|CURL")
# in the address of an upload in parts
_UPLOAD = "upload_id="
_CLIENTS = {"gcsfs", "aiohttp", "google", "requests", "urllib3", "botocore", "s3fs"}


@contextlib.contextmanager
def translate_errors(path: str | os.PathLike) -> Iterator[None]:
    """Raise what a store's client raises as an OSError with an errno and the path."""
    try:
        yield
    except (OmfaError, KeyboardInterrupt):
        raise
    except Exception as error:
        _raise_translated(error, str(path))


def find_storage_error(error: BaseException) -> OSError | None:
    """Return an OSError for an error of a store's client that a library let through, or None.

    TensorStore's errors have the status of gRPC at the beginning of their text.
    """
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) and _UPLOAD in text:
        return _make_lost_upload_error(text)
    found = _GRPC_STATUS.search(text)
    if isinstance(error, ValueError) and found and _STORE.search(text):
        # TensorStore does not renew a token that the store no longer takes; a new process does, and
        # where it cannot, its first request ends with the client's own 401
        is_expired = "http_response_code='401'" in text
        return OSError(errno.EREMOTEIO if is_expired else _GRPC_ERRNOS[found[1]], text[:300])
    if type(error).__module__.partition(".")[0] not in _CLIENTS or not isinstance(error, Exception):
        return None
    try:
        _raise_translated(error, "")
    except OSError as made:
        return made


def _make_lost_upload_error(what: str) -> OSError:
    # not of a missing file: the store forgets an upload that has ended or taken a week
    return OSError(errno.EREMOTEIO, "the store no longer knows the upload", what)


def _raise_translated(error: Exception, path: str) -> NoReturn:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and _UPLOAD in text:
        raise _make_lost_upload_error(path) from error
    if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError):
        raise type(error)(error.errno or _guess_errno(error), _text_of(error), path) from error
    status = _get_status(error)
    if isinstance(error, PermissionError) or text.startswith("Forbidden"):
        status = 403
    if status:
        number = _STATUS_ERRNOS.get(status, errno.EREMOTEIO if status >= 500 else errno.EINVAL)
        words = f"{_WORDS.get(status, 'the store refused it')} (HTTP {status}: {text[:200]})"
        raise OSError(number, words, path) from error
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _UNREACHABLE:
        raise OSError(errno.EHOSTUNREACH, f"the store does not answer ({text[:200]})", path) from (
            error
        )
    if names & _NO_LOGIN:
        raise OSError(errno.EACCES, f"no valid credentials ({text[:200]})", path) from error
    if isinstance(error, OSError) and error.errno:
        raise OSError(error.errno, error.strerror or text, path) from error
    raise OSError(errno.EREMOTEIO, f"{type(error).__name__}: {text[:200]}", path) from error


_UNREACHABLE = {
    *("ClientConnectionError", "ConnectionError", "TimeoutError", "Timeout", "ClientError"),
    *("EndpointConnectionError", "HTTPClientError", "FSTimeoutError", "TransportError"),
}
_NO_LOGIN = {"GoogleAuthError", "DefaultCredentialsError", "NoCredentialsError"}


def _guess_errno(error: OSError) -> int:
    kinds = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST}
    return kinds.get(type(error), errno.EISDIR)


def _text_of(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or _guess_errno(error))


def _get_status(error: BaseException | None) -> int:
    """Return the HTTP status of a client's error or of its cause; 0 if it has none."""
    while error is not None:
        for name in ("code", "status", "status_code"):
            with contextlib.suppress(TypeError, ValueError):
                if 400 <= (value := int(getattr(error, name, 0) or 0)) < 600:
                    return value
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            value = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if 400 <= value < 600:
                return value
        error = error.__cause__
    return 0


class TranslatingFile(io.BufferedIOBase):
    """An open object whose client's errors are raised as OSError."""

    def __init__(self, raw: Any, path: str):
        self._raw, self._path = raw, path

    def readable(self) -> bool:
        return self._raw.readable()

    def writable(self) -> bool:
        return self._raw.writable()

    def seekable(self) -> bool:
        return self._raw.readable()

    def read(self, size: int | None = -1) -> bytes:
        with translate_errors(self._path):
            return self._raw.read(-1 if size is None else size)

    read1 = read

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        with translate_errors(self._path):
            return self._raw.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            with translate_errors(self._path):
                self._raw.close()
            super().close()

    def __exit__(self, kind, *rest) -> None:
        # a block that failed must not publish half of what it meant to write
        if kind is not None and self._raw.writable():
            with contextlib.suppress(Exception):
                self._raw.discard()
            self._raw.closed = True
        self.close()
