"""With which status a failed command ends: by it, launch scripts start a job again or do not.

    status  meaning                                         started again
    0       done                                            no
    1       an error that nobody foresaw, its traceback     yes, a limited number of times
    2       no restart mends it: a flag, a file, the disk   no
    75      a restart may mend it: network, device, host    yes, a limited number of times
    143     SIGTERM, and saved                              yes
    128+n   ended by another signal n: a host that vanished yes, a limited number of times

75 is EX_TEMPFAIL of BSD's sysexits.h. `ROWS` says which fault ends with which status.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError

UNFORESEEN, NO_RESTART, RESTART = 1, 2, 75
# what XLA raises, under both of its names
XLA_ERRORS = {"JaxRuntimeError", "XlaRuntimeError"}


@dataclass(frozen=True)
class Row:
    """A kind of fault: its exit status, and whether a read that met it is tried again in place.

    It is known by the names of errno, the names of exception types, or XLA's text (a pattern).
    """

    fault: str
    status: int
    tried_again: bool = False
    errnos: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    xla: str = ""


FULL = Row(
    "a disk or a quota that is full",
    NO_RESTART,
    errnos=("ENOSPC", "EDQUOT", "EFBIG"),
)
UNUSABLE = Row(
    "a file that is not there or may not be used so",
    NO_RESTART,
    errnos=(
        *("ENOENT", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY"),
        *("ENAMETOOLONG", "ELOOP", "EINVAL", "EXDEV", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"),
        *("EBADF", "EMFILE", "ENOTTY", "ENOEXEC", "ETXTBSY"),
    ),
)
NETWORK = Row(
    "a network, or a file system behind one",
    RESTART,
    tried_again=True,
    errnos=(
        *("EIO", "ESTALE", "EREMOTEIO", "EAGAIN", "EINTR", "EBUSY", "ENFILE", "ENOLCK", "ENODATA"),
        *("ETIMEDOUT", "ETIME", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "EPIPE"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN"),
        *("ENOLINK", "ECOMM", "EPROTO", "ENOBUFS", "EREMCHG", "ENONET"),
    ),
    types=("TimeoutError", "ConnectionError", "gaierror"),
)
ROWS = (
    FULL,
    UNUSABLE,
    NETWORK,
    Row("host memory", NO_RESTART, errnos=("ENOMEM",), types=("MemoryError",)),
    Row("an operating system's error of another kind", RESTART, errnos=("*",)),
    Row("device memory", NO_RESTART, xla=r"^RESOURCE_EXHAUSTED"),
    Row(
        "a device, another host, or what joins them",
        RESTART,
        xla=r"^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL|DATA_LOSS|UNKNOWN"
        r"|FAILED_PRECONDITION)|NCCL|Gloo|CUDA_ERROR|\bECC\b|Unable to initialize backend",
    ),
    Row("what the user can mend", NO_RESTART, types=("OmfaError", "OSError")),
    Row("an error that nobody foresaw", UNFORESEEN, types=("BaseException",)),
)
# rows that say of an exception no more than its type
VAGUE = ROWS[-2:]

# "[Errno 5]" is Python's, "[OS error 5: EIO ..." TensorStore's, "(os error 5)" safetensors'
_NUMBER = re.compile(r"\[Errno (\d+)\]|\b(?i:OS) error (\d+)\b")
# what strerror says, where it is too plain a phrase to stand in an error of another kind
_PHRASES = {
    os.strerror(getattr(errno, name)): name
    for name in (*FULL.errnos, *NETWORK.errnos, "EROFS")
    if hasattr(errno, name) and len(os.strerror(getattr(errno, name)).split()) > 2
} | {"Input/output error": "EIO"}


def row_of(error: BaseException) -> Row:
    """Return the table's row for an error: that of the innermost cause that says what happened."""
    rows = [_row_of_one(one) for one in causes(error)]
    return next((row for row in reversed(rows) if row not in VAGUE), rows[0])


def is_transient(error: BaseException) -> bool:
    """True for a fault that a second try of the same read may be spared."""
    return row_of(error).tried_again


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on.

    An OmfaError says in words what it was raised in the handling of, "from None" too.
    """
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        seen.append(now)
        yield now
        inner = now.__cause__
        if inner is None and isinstance(now, OmfaError):
            inner = now.__context__
        # urllib keeps what it met beside itself
        reason = getattr(now, "reason", None)
        now = reason if inner is None and isinstance(reason, BaseException) else inner


def _row_of_one(error: BaseException) -> Row:
    number = _errno_of(error)
    types = {kind.__name__ for kind in type(error).__mro__}
    # of a backend that does not start, jax makes a plain RuntimeError
    is_xla = bool(types & XLA_ERRORS) or str(error).startswith("Unable to initialize backend")
    for row in ROWS:
        if number and (number in row.errnos or "*" in row.errnos):
            return row
        if row.xla and is_xla and re.search(row.xla, str(error)):
            return row
        if types & set(row.types):
            return row
    return ROWS[-1]


def _errno_of(error: BaseException) -> str:
    """Return the name of an error's errno, its own or the one in its text; "" for none."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number is None and (match := _NUMBER.search(text)):
        number = int(match[1] or match[2])
    # getaddrinfo's numbers are negative and its own
    if number is not None and number > 0:
        return errno.errorcode.get(number, str(number))
    return next((name for phrase, name in _PHRASES.items() if phrase in text), "")
