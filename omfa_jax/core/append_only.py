"""Append-only files: a full disk or a kill costs at most the last record, never a later one."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class AppendOnlyFile:
    """A file to which pieces are appended completely or, with an OSError, not at all.

    It is opened at the first append, and reopened after an error. With `lines` every piece is a
    line; a last line that a kill cut short is terminated first, so it cannot corrupt the next one.
    """

    def __init__(self, path: str | os.PathLike, *, lines: bool = False):
        self.path, self._lines = Path(path), lines
        self._descriptor: int | None = None
        # True once part of a piece could not be removed from the file
        self.is_torn = False

    def append(self, piece: bytes) -> None:
        """Append `piece` to the file."""
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
        append_or_roll_back(self._descriptor, piece, self._failed, lines=self._lines)

    def _failed(self, is_torn: bool) -> None:
        self.is_torn |= is_torn
        with contextlib.suppress(OSError):
            self.close()

    def close(self) -> None:
        """Close the file; the next append reopens it."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def append_or_roll_back(descriptor: int, piece: bytes, failed=None, *, lines: bool) -> None:
    """Append `piece` to an open file completely or, with an OSError, not at all.

    `failed(is_torn)`, if given, is called before the error is raised.
    """
    end = None
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if lines and end and os.pread(descriptor, 1, end - 1) != b"\n":
            piece = b"\n" + piece
        # a nearly full disk takes part of a write and reports no error
        left = memoryview(piece)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        is_torn = False
        try:
            if end is not None:
                os.ftruncate(descriptor, end)
        except OSError:
            is_torn = True
        if failed is not None:
            failed(is_torn)
        raise


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON Lines file.

    Lines that are not a JSON object, such as one that a kill cut short, are skipped with one
    warning. Blank lines are ignored.
    """
    torn = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                torn.append(number)
    if torn:
        shown = ", ".join(map(str, torn[:8])) + (", ..." if len(torn) > 8 else "")
        log.warning("%s: skipped %d incomplete lines (line %s)", path, len(torn), shown)
