"""Exit statuses of failed commands, by which launch scripts decide whether to restart a job.

    status  meaning                                         restarted
    0       success                                         no
    1       an unexpected error, with its traceback         yes, a limited number of times
    2       a restart cannot help: flag, file, disk         no
    75      a restart may help: network, device, host       yes, a limited number of times
    143     SIGTERM, SIGHUP, SIGUSR1; a checkpoint is saved yes
    128+n   killed by another signal n, or a lost host      yes, a limited number of times

75 is EX_TEMPFAIL of BSD's sysexits.h. `FAULT_KINDS` maps kinds of fault to statuses.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError

UNEXPECTED, NO_RESTART, RESTART = 1, 2, 75
# the names of the exception that XLA raises, in newer and older jax
XLA_ERRORS = {"JaxRuntimeError", "XlaRuntimeError"}


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault, its exit status, and whether a read that fails with it is retried in place.

    It is recognised by errno names, by exception type names, or by a pattern in XLA's message.
    """

    description: str
    status: int
    is_retried: bool = False
    errnos: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    xla: str = ""


DISK_FULL = FaultKind(
    "a full disk or an exceeded quota",
    NO_RESTART,
    errnos=("ENOSPC", "EDQUOT", "EFBIG"),
)
UNUSABLE_FILE = FaultKind(
    "a file that does not exist or cannot be used that way",
    NO_RESTART,
    errnos=(
        *("ENOENT", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY"),
        *("ENAMETOOLONG", "ELOOP", "EINVAL", "EXDEV", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"),
        *("EBADF", "ENOTTY", "ENOEXEC", "ETXTBSY"),
    ),
)
OPEN_FILES = FaultKind(
    "too many open files: raise the limit (`ulimit -n`, LimitNOFILE of systemd)",
    NO_RESTART,
    errnos=("EMFILE",),
)
NETWORK = FaultKind(
    "the network or a network file system",
    RESTART,
    is_retried=True,
    errnos=(
        *("EIO", "ESTALE", "EREMOTEIO", "EAGAIN", "EINTR", "EBUSY", "ENFILE", "ENOLCK", "ENODATA"),
        *("ETIMEDOUT", "ETIME", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "EPIPE"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN"),
        *("ENOLINK", "ECOMM", "EPROTO", "ENOBUFS", "EREMCHG", "ENONET"),
    ),
    types=("TimeoutError", "ConnectionError", "gaierror"),
)
FAULT_KINDS = (
    DISK_FULL,
    UNUSABLE_FILE,
    OPEN_FILES,
    NETWORK,
    FaultKind("host memory", NO_RESTART, errnos=("ENOMEM",), types=("MemoryError",)),
    FaultKind("another operating system error", RESTART, errnos=("*",)),
    FaultKind("device memory", NO_RESTART, xla=r"^RESOURCE_EXHAUSTED"),
    FaultKind(
        "a device, another host, or the interconnect",
        RESTART,
        xla=r"^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL|DATA_LOSS|UNKNOWN"
        r"|FAILED_PRECONDITION)|NCCL|Gloo|CUDA_ERROR|\bECC\b|Unable to initialize backend",
    ),
    FaultKind("an error that the user can fix", NO_RESTART, types=("OmfaError", "OSError")),
    FaultKind("an unexpected error", UNEXPECTED, types=("BaseException",)),
)
# catch-all rows: they match by a base class alone
CATCH_ALL = FAULT_KINDS[-2:]

_COLLECTIVE = re.compile(r"^[A-Z_]+: .*(\b(Gloo|NCCL)\b|CUDA_ERROR)", re.DOTALL)
# "[Errno 5]" is Python's, "[OS error 5: EIO ..." TensorStore's, "(os error 5)" safetensors'
_NUMBER = re.compile(r"\[Errno (\d+)\]|\b(?i:OS) error (\d+)\b")
# strerror texts of more than two words; shorter ones may occur in messages about something else
_PHRASES = {
    os.strerror(getattr(errno, name)): name
    for name in (*DISK_FULL.errnos, *NETWORK.errnos, "EROFS")
    if hasattr(errno, name) and len(os.strerror(getattr(errno, name)).split()) > 2
} | {"Input/output error": "EIO"}


def classify_error(error: BaseException) -> FaultKind:
    """Return the table's row for an error: that of its innermost cause with a specific row."""
    # libraries wrap an OSError in their own errors, several levels deep
    rows = [_classify_one(one) for one in iter_causes(error)]
    return next((row for row in reversed(rows) if row not in CATCH_ALL), rows[0])


def is_transient(error: BaseException) -> bool:
    """Return True for a fault after which the same read may succeed when it is retried."""
    return classify_error(error).is_retried


def iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the error it was raised from, and so on.

    Of an OmfaError the context counts as well, even one raised "from None": its text rewords it.
    """
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        seen.append(now)
        yield now
        inner = now.__cause__
        if inner is None and isinstance(now, OmfaError):
            inner = now.__context__
        # urllib stores the cause in an attribute
        reason = getattr(now, "reason", None)
        now = reason if inner is None and isinstance(reason, BaseException) else inner


def _classify_one(error: BaseException) -> FaultKind:
    number = _get_errno_name(error)
    types = {kind.__name__ for kind in type(error).__mro__}
    # jax raises a plain RuntimeError for a backend that does not start
    is_xla = bool(types & XLA_ERRORS) or str(error).startswith("Unable to initialize backend")
    # and a ValueError where the array that a failed collective should have made is read
    is_xla |= type(error) in (ValueError, RuntimeError) and bool(_COLLECTIVE.search(str(error)))
    for row in FAULT_KINDS:
        if number and (number in row.errnos or "*" in row.errnos):
            return row
        if row.xla and is_xla and re.search(row.xla, str(error)):
            return row
        if types & set(row.types):
            return row
    return FAULT_KINDS[-1]


def _get_errno_name(error: BaseException) -> str:
    """Return the name of an error's errno, from its attribute or its text; "" if it has none."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number is None and (match := _NUMBER.search(text)):
        number = int(match[1] or match[2])
    # getaddrinfo has negative numbers with other meanings
    if number is not None and number > 0:
        return errno.errorcode.get(number, str(number))
    return next((name for phrase, name in _PHRASES.items() if phrase in text), "")
