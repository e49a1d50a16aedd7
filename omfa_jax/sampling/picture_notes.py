"""What is logged while one picture of many is prepared, kept with the picture instead."""

import contextlib
import contextvars
import logging
from collections.abc import Iterator

_RECORDS: contextvars.ContextVar[list[logging.LogRecord] | None] = contextvars.ContextVar(
    "omfa_picture_records", default=None
)


@contextlib.contextmanager
def divert_logs() -> Iterator[None]:
    """Within the block, `collect_notes` takes this package's messages away from the log."""
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(_divert)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_divert)


@contextlib.contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Yield a list that holds the warnings of this thread's block once it has ended."""
    records: list[logging.LogRecord] = []
    notes: list[str] = []
    token = _RECORDS.set(records)
    try:
        yield notes
    finally:
        _RECORDS.reset(token)
        notes += [r.getMessage() for r in records if r.levelno >= logging.WARNING]


def _divert(record: logging.LogRecord) -> bool:
    records = _RECORDS.get()
    if records is None or not record.name.startswith("omfa_jax."):
        return True
    # once, though several handlers ask
    if not any(known is record for known in records):
        records.append(record)
    return False
