"""The judge's cache: one line on disk for every answer that was, or may have been, paid for."""

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from omfa_jax.core.appending import append_whole
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_write, exclusive_lock
from omfa_jax.evals.judge.prompts import FIRST, SECOND
from omfa_jax.evals.judge.settings import FRAME_PX, JudgeSettings, Pair

log = logging.getLogger(__name__)

HEADER = {"judge_cache": 1}


@dataclass(frozen=True)
class Entry:
    """One request that was answered ("score", "malformed") or whose answer was "lost"."""

    key: str
    outcome: str
    ask: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    score: float | None = None
    reason: str = ""


def key_of(pair: Pair, settings: JudgeSettings) -> str:
    """Return the SHA-256 of both files' contents and of all that is asked about them.

    Neither names nor folders count, nor does the server: a moved picture is not paid for again.
    """
    asked = [settings.prompt, FIRST, SECOND, settings.fields, settings.detail, FRAME_PX]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for what, path in (("garment", pair.garment), ("generated picture", pair.generated)):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise OmfaError(f"{what} {path}: {error.strerror or error}") from None
    return digest.hexdigest()


class Ledger:
    """The file, open for one run. Safe to use from several threads."""

    def __init__(self, path: Path, entries: list[Entry], descriptor: int) -> None:
        self.path = path
        self.entries = entries
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        """Append a line; it is on the disk when this returns."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._lock:
            self.entries.append(entry)
            try:
                # whole or not at all: half a line would take the next paid answer with it
                append_whole(self._descriptor, line, lines=True)
                os.fsync(self._descriptor)
            except OSError as error:
                raise OmfaError(f"cannot write {self.path}: {error.strerror or error}") from None

    def scores(self) -> dict[str, Entry]:
        """Return the answers that can be used, by key."""
        with self._lock:
            return {entry.key: entry for entry in self.entries if entry.outcome == "score"}


@contextlib.contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Yield the ledger, which no other process may use meanwhile. OmfaError if it cannot be."""
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(HEADER) + "\n")
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OmfaError(f"--judge-cache {path}: {error.strerror or error}") from None
    refusal = f"another run is judging with {path}: wait for it, or give another --judge-cache"
    with file, exclusive_lock(file, refusal):
        file.seek(0)
        content = file.read()
        entries = _entries(content, path)
        yield Ledger(path, entries, file.fileno())


def _entries(content: bytes, path: Path) -> list[Entry]:
    header, *lines = content.split(b"\n")
    try:
        known = json.loads(header) == HEADER
    except ValueError:
        known = False
    if not known:
        raise OmfaError(f"{path} is not a judge's cache: give another file to --judge-cache")
    entries, torn = [], 0
    for line in filter(None, lines):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            torn += 1
    if torn:
        log.warning("%s: left out %d lines that were cut short; asked again", path, torn)
    return entries
