"""The judge's cache: one line on disk for every answer that was or may have been charged."""

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from omfa_jax.core.append_only import append_or_roll_back
from omfa_jax.core.atomic_files import atomic_write, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.evals.judge.judge_prompts import GARMENT_LABEL, GENERATED_LABEL
from omfa_jax.evals.judge.settings import FRAME_PX, JudgePair, JudgeSettings

log = logging.getLogger(__name__)

HEADER = {"judge_cache": 1}


@dataclass(frozen=True)
class LedgerEntry:
    """One request; its outcome is "score", "malformed", or "lost" without an answer."""

    key: str
    outcome: str
    ask: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    score: float | None = None
    reason: str = ""


def compute_key(pair: JudgePair, settings: JudgeSettings) -> str:
    """Return the SHA-256 of both files' contents and of the request.

    File names, folders and the server are not part of the key, so a moved image is not paid for
    again.
    """
    # everything that could change the answer; the API key and the price do not
    asked = [
        settings.prompt,
        GARMENT_LABEL,
        GENERATED_LABEL,
        settings.fields,
        settings.detail,
        FRAME_PX,
    ]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for what, path in (("garment", pair.garment), ("generated image", pair.generated)):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise OmfaError(f"{what} {path}: {error.strerror or error}") from None
    return digest.hexdigest()


class Ledger:
    """The cache file, open for one run. Thread-safe."""

    def __init__(self, path: Path, entries: list[LedgerEntry], descriptor: int) -> None:
        self.path = path
        self.entries = entries
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def add(self, entry: LedgerEntry) -> None:
        """Append a line and sync it to disk."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._lock:
            self.entries.append(entry)
            try:
                # all or nothing: an answer appended to a partial line would be lost with it
                append_or_roll_back(self._descriptor, line, lines=True)
                # a paid answer must survive a crash of the machine
                os.fsync(self._descriptor)
            except OSError as error:
                raise OmfaError(f"cannot write {self.path}: {error.strerror or error}") from None

    def get_scores(self) -> dict[str, LedgerEntry]:
        """Return the usable answers by key."""
        with self._lock:
            return {entry.key: entry for entry in self.entries if entry.outcome == "score"}


@contextlib.contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Yield the ledger, locked against other processes; OmfaError if it cannot be opened."""
    if not path.exists():
        # the header comes first and atomically: a file without it is not a judge cache
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(HEADER) + "\n")
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OmfaError(f"--judge-cache {path}: {error.strerror or error}") from None
    refusal = f"another run is using {path}: wait for it, or give another --judge-cache"
    with file, exclusive_lock(file, refusal):
        file.seek(0)
        content = file.read()
        entries = _entries(content, path)
        yield Ledger(path, entries, file.fileno())


def _entries(content: bytes, path: Path) -> list[LedgerEntry]:
    header, *lines = content.split(b"\n")
    try:
        known = parse_json(header) == HEADER
    except ValueError:
        known = False
    if not known:
        raise OmfaError(f"{path} is not a judge cache: give another file to --judge-cache")
    entries, torn = [], 0
    for line in filter(None, lines):
        try:
            entries.append(LedgerEntry(**parse_json(line)))
        # a kill in the middle of a write; the lines before and after it are still good
        except (ValueError, TypeError):
            torn += 1
    if torn:
        log.warning(
            "%s: skipped %d truncated lines; their images are asked about again", path, torn
        )
    return entries
