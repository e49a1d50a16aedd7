"""Files that grow by whole pieces: a full disk or a kill costs the last piece, never the next."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class AppendedFile:
    """A file to whose end pieces are written in full or, with an OSError, not at all.

    It is opened when it is first needed, and again after an error. `lines`: the pieces are lines; a
    last one that a kill cut short is ended first, so that it takes nothing of the next with it.
    """

    def __init__(self, path: str | os.PathLike, *, lines: bool = False):
        self.path, self._lines = Path(path), lines
        self._descriptor: int | None = None
        # what could not be taken back of a piece is in the file
        self.is_torn = False

    def append(self, piece: bytes) -> None:
        """Write `piece` to the end of the file."""
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
        append_whole(self._descriptor, piece, self._failed, lines=self._lines)

    def _failed(self, is_torn: bool) -> None:
        self.is_torn |= is_torn
        with contextlib.suppress(OSError):
            self.close()

    def close(self) -> None:
        """Close the file; the next piece opens it again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def append_whole(descriptor: int, piece: bytes, failed=None, *, lines: bool) -> None:
    """Write `piece` to the end of an open file, all of it or, with an OSError, nothing.

    `failed(is_torn)` is called before the error is raised, if it is given.
    """
    end = None
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if lines and end and os.pread(descriptor, 1, end - 1) != b"\n":
            piece = b"\n" + piece
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
    """Yield (line number from 1, object) of a file of JSON lines; others are left out and said.

    A kill or a full disk cuts lines short. Blank lines are nothing.
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
        log.warning("%s: left out %d torn lines (line %s)", path, len(torn), shown)
