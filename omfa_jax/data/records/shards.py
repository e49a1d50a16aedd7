"""Shards: record files written atomically, each a deterministic function of its own items.

A shard is written to a temporary file and renamed, then its report is written. A shard with a
matching report is not written again, which is how a killed run resumes. The records of a shard
depend on the list of items and the number per shard only, not on which process or Beam worker
writes it.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from omfa_jax import __version__
from omfa_jax.core.atomic_files import get_umask
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.file_states import FileState
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath, RemotePath, is_remote
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.staging import StagingFolder, convert_disk_errors

# as TFDS's own writer: one record per group, so that random access decompresses one record
WRITER_OPTIONS = "group_size:1"

ShardOutcome = Literal["kept", "written", "rewritten"]


@dataclass(frozen=True)
class Shard:
    """Items `start` to `stop` of a split, shard `index` of `count`; picklable.

    The names of the class and its fields are part of every stamp (`compute_stamp`).
    """

    dataset: str
    split: str
    index: int
    count: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """The file name of the shard, in TFDS's scheme."""
        place = f"{self.index:05d}-of-{self.count:05d}"
        return f"{self.dataset}-{self.split}.array_record-{place}"


@dataclass
class ShardReport:
    """The report of a written shard, stored so that a restart can report on all shards.

    `stamp`: digest of the inputs. `size_bytes`, `sha256`: of the file. `skipped`: (key, reason).
    `flaws`: {flaw: (count, first keys)}. `facts`: what the source adds. `groups`: of each record.
    """

    stamp: str
    records: int = 0
    size_bytes: int = 0
    sha256: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    flaws: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)


class ShardSource(Protocol):
    """A source of a shard's records, deterministic and picklable."""

    @property
    def kind(self) -> record_schema.Kind:
        """Kind of the records."""
        ...

    def stamp(self, shard: Shard) -> str:
        """Return a digest of everything that the shard's records depend on."""
        ...

    def iter_records(self, shard: Shard, report: ShardReport) -> Iterator[Any]:
        """Yield the shard's records; skips, flaws and facts go to the report."""
        ...


def plan_shards(dataset: str, counts: Mapping[str, int], shard_records: int) -> list[Shard]:
    """Return the shards of all splits, in order, given the number of items of each split."""
    if shard_records < 1:
        raise OmfaError(f"--shard-records: expected 1 or more, got {shard_records}")
    shards = []
    for split, items in counts.items():
        starts = range(0, items, shard_records)
        shards += [
            Shard(dataset, split, i, len(starts), start, min(start + shard_records, items))
            for i, start in enumerate(starts)
        ]
    return shards


def write_shard(
    partial: StagingFolder,
    source: ShardSource,
    shard: Shard,
    advance: Callable[[int], object] = lambda _: None,
) -> ShardOutcome:
    """Write one shard and its report unless they exist; `advance(n)` is called after n items.

    Raises OmfaError if the file cannot be written, and whatever `source` raises.
    """
    size = shard.stop - shard.start
    # before reading: an input that changes meanwhile gives a stamp that no longer matches
    stamp, path = source.stamp(shard), partial.get_shard_path(shard.file_name)
    found = path.exists()
    if found and is_finished(partial, shard, stamp):
        advance(size)
        return "kept"
    report, done = ShardReport(stamp), 0
    # in the staging folder, not /tmp: a rename is atomic within one file system only. A shard in a
    # bucket is made in TMPDIR and appears when its upload ends
    handle, name = tempfile.mkstemp(dir=None if is_remote(path) else partial.temporary)
    os.close(handle)
    temporary = Path(name)
    try:
        serialize = _serializer(source.kind)
        with convert_disk_errors(partial.folder):
            writer = ArrayRecordWriter(name, WRITER_OPTIONS)
        for record in source.iter_records(shard, report):
            report.groups.append(record.group)
            with convert_disk_errors(partial.folder):
                writer.write(serialize(record))
            report.records += 1
            done += 1
            advance(1)
        with convert_disk_errors(partial.folder):
            writer.close()
            report.size_bytes, report.sha256 = temporary.stat().st_size, _sha256(temporary)
            if isinstance(path, RemotePath):
                path.upload(temporary)
            else:
                # mkstemp creates files with mode 0600
                temporary.chmod(0o666 & ~get_umask())
                temporary.replace(path)
            # last: a shard without a report is rewritten
            partial.write_text(
                partial.get_report_path(shard.file_name), json.dumps(dataclasses.asdict(report))
            )
    finally:
        temporary.unlink(missing_ok=True)
    advance(size - done)
    return "rewritten" if found else "written"


def is_finished(partial: StagingFolder, shard: Shard, stamp: str) -> bool:
    """Return whether the shard and its report are complete and match `stamp`."""
    try:
        report, path = read_shard_report(partial, shard), partial.get_shard_path(shard.file_name)
        if report.stamp != stamp or path.stat().st_size != report.size_bytes:
            return False
        if len(report.groups) != report.records:
            return False
        # last, as it reads the file
        return _sha256(path) == report.sha256
    except (OSError, ValueError, TypeError):
        return False


def read_shard_report(partial: StagingFolder, shard: Shard) -> ShardReport:
    """Return the shard's stored report."""
    return ShardReport(**parse_json(partial.get_report_path(shard.file_name).read_text()))


def compute_stamp(*facts: Any, known: Mapping[RemotePath, FileState | None] | None = None) -> str:
    """Return a digest of plain values, dataclasses and containers, and of the package version.

    A path contributes its file's absolute path, size and modification time, which are asked for
    unless `known` has them.
    """
    return hashlib.sha256(
        repr([__version__, record_schema.FORMAT, _plain(facts, known or {})]).encode()
    ).hexdigest()


def find_remote_paths(value: Any) -> Iterator[RemotePath]:
    """Yield the paths of object storage in dataclasses and containers."""
    if isinstance(value, RemotePath):
        yield value
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from find_remote_paths(getattr(value, f.name))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for entry in value:
            yield from find_remote_paths(entry)


def _plain(value: Any, known: Mapping[RemotePath, FileState | None]) -> Any:
    if isinstance(value, RemotePath):
        if value in known:
            return str(value), *(known[value] or (None,))
        try:
            status = value.stat()
            return str(value), status.st_size, status.st_mtime
        except FileNotFoundError:
            return str(value), None
    if isinstance(value, Path):
        try:
            status = value.stat()
            return os.path.abspath(value), status.st_size, status.st_mtime_ns
        except OSError:
            return os.path.abspath(value), None
    if dataclasses.is_dataclass(value):
        fields = [
            (f.name, _plain(getattr(value, f.name), known)) for f in dataclasses.fields(value)
        ]
        return type(value).__name__, fields
    if isinstance(value, Mapping):
        return sorted((repr(key), _plain(entry, known)) for key, entry in value.items())
    # repr() of a large array is abbreviated, and would hide a change
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(entry, known) for entry in value]
    return value


def _serializer(kind: record_schema.Kind) -> Callable[[Any], bytes]:
    features = record_schema.make_features(kind)
    specs: Any = features.get_serialized_info()
    serializer = ExampleSerializer(specs)

    def serialize(record: Any) -> bytes:
        example = features.encode_example(record_schema.to_example(record))
        # deterministic: TFDS serializes the fields in an order that differs between processes
        return serializer.get_tf_example(example).SerializeToString(deterministic=True)

    return serialize


def _sha256(path: AnyPath) -> str:
    # as a mere file: the type of an open object lacks what hashlib asks of others
    with path.open("rb") as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
