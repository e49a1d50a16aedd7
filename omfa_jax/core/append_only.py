"""Append-only files: a full disk or a kill costs at most the last record, never a later one."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import RemotePath, to_path

log = logging.getLogger(__name__)


# an object is written again whole: not more often than this, and as bytes a second
_REWRITE_S, _REWRITE_BYTES_S = 30.0, 500_000


class AppendOnlyFile:
    """A file to which pieces are appended completely or, with an OSError, not at all.

    It is opened at the first append, and reopened after an error. With `lines` every piece is a
    line; a last line that a kill cut short is terminated first, so it cannot corrupt the next one.

    Object storage has no append. There the content is kept in memory and the object written again:
    at `flush` and `close`, and while appending every 30 seconds, less often the longer it is. A
    kill costs what was appended since.
    """

    def __init__(self, path: str | os.PathLike, *, lines: bool = False):
        self.path, self._lines = to_path(path), lines
        self._descriptor: int | None = None
        # True once part of a piece could not be removed from the file
        self.is_torn = False
        self._content: bytearray | None = None
        self._is_written, self._next_rewrite = True, 0.0

    def append(self, piece: bytes) -> None:
        """Append `piece` to the file."""
        if isinstance(self.path, RemotePath):
            self._append_remote(self.path, piece)
            return
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
        append_or_roll_back(self._descriptor, piece, self._failed, lines=self._lines)

    def _append_remote(self, path: RemotePath, piece: bytes) -> None:
        if self._content is None:
            try:
                self._content = bytearray(path.read_bytes())
            except FileNotFoundError:
                self._content = bytearray()
        if self._lines and self._content and not self._content.endswith(b"\n"):
            self._content += b"\n"
        self._content += piece
        self._is_written = False
        if time.monotonic() >= self._next_rewrite:
            self.flush()

    def flush(self) -> None:
        """Write what was appended to object storage; files of this machine have it already.

        After an OSError the next flush tries again, with all that was appended.
        """
        if self._is_written or not isinstance(self.path, RemotePath) or self._content is None:
            return
        pause = max(_REWRITE_S, len(self._content) / _REWRITE_BYTES_S)
        self._next_rewrite = time.monotonic() + pause
        self.path.write_bytes(bytes(self._content))
        self._is_written = True

    def _failed(self, is_torn: bool) -> None:
        self.is_torn |= is_torn
        with contextlib.suppress(OSError):
            self.close()

    def close(self) -> None:
        """Close the file; the next append reopens it."""
        self.flush()
        self._content = None
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
    with to_path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                torn.append(number)
    if torn:
        shown = ", ".join(map(str, torn[:8])) + (", ..." if len(torn) > 8 else "")
        log.warning("%s: skipped %d incomplete lines (line %s)", path, len(torn), shown)
