"""Log lines that say, in a job of several processes, when and where they were written."""

import logging
import socket
import time

_place = ""


def set_log_place(index: int, count: int) -> None:
    """Begin every line of this process with the time, its index and its host, if `count` > 1."""
    global _place
    _place = f"process {index} on {socket.gethostname()}" if count > 1 else ""


def format_prefix() -> str:
    """Return "12-31 23:59:59 process 3 on HOST | " in a job of several processes, else ""."""
    return f"{time.strftime('%m-%d %H:%M:%S')} {_place} | " if _place else ""


class PlaceFormatter(logging.Formatter):
    """The message alone, after the prefix of a job of several processes."""

    def format(self, record: logging.LogRecord) -> str:
        return format_prefix() + super().format(record)
