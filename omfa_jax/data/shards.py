"""Shards: files of records that are whole or absent, each a function of its own items alone.

A shard is written beside its place and renamed when it is whole; its report comes after it. One
that has a fitting report is never written again, so a killed run goes on where it was. Which
records a shard holds depends on the list of items and the number per shard, never on who writes
it: a process of this machine or a Beam worker.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from omfa_jax import __version__
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import current_umask
from omfa_jax.data import schema
from omfa_jax.data.partial import Partial, disk_errors

# what TFDS gives its own writer: records one by one can be read at random
WRITER_OPTIONS = "group_size:1"

Fate = Literal["kept", "written", "written anew"]


@dataclass(frozen=True)
class Shard:
    """Items `start` to `stop` of a split, shard `index` of the split's `count`; picklable."""

    dataset: str
    split: str
    index: int
    count: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """The name that TFDS gives to such a file."""
        place = f"{self.index:05d}-of-{self.count:05d}"
        return f"{self.dataset}-{self.split}.array_record-{place}"


@dataclass
class ShardReport:
    """What writing a shard told, kept beside it: a restart reports as if there had been none.

    `stamp` says what went in, `size_bytes` and `sha256` what came out. `skipped` holds (key,
    reason); `flaws` {flaw: (count, first keys)}; `facts` what the source wants to remember;
    `groups` each record's group, for whoever pairs them.
    """

    stamp: str
    records: int = 0
    size_bytes: int = 0
    sha256: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    flaws: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)


class Source(Protocol):
    """Where a shard's records come from; the same shard always gives the same; picklable."""

    @property
    def kind(self) -> schema.Kind:
        """What the records are."""
        ...

    def stamp(self, shard: Shard) -> str:
        """Return a digest of all that the shard's records depend on."""
        ...

    def records(self, shard: Shard, report: ShardReport) -> Iterator[Any]:
        """Yield the shard's records and add what is to be told to the report."""
        ...


def cut(dataset: str, counts: Mapping[str, int], shard_records: int) -> list[Shard]:
    """Return the shards of splits of so many items, in order; an empty split has none."""
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
    partial: Partial,
    source: Source,
    shard: Shard,
    advance: Callable[[int], object] = lambda _: None,
) -> Fate:
    """Write one shard and its report unless they are there; `advance` is told of items done.

    Raises OmfaError if the file cannot be written; what `source` raises passes through.
    """
    size = shard.stop - shard.start
    stamp, path = source.stamp(shard), partial.path(shard.file_name)
    found = path.exists()
    if found and finished(partial, shard, stamp):
        advance(size)
        return "kept"
    report, done = ShardReport(stamp), 0
    handle, name = tempfile.mkstemp(dir=partial.temporary)
    os.close(handle)
    temporary = Path(name)
    try:
        serialize = _serializer(source.kind)
        with disk_errors(partial.folder):
            writer = ArrayRecordWriter(name, WRITER_OPTIONS)
        for record in source.records(shard, report):
            report.groups.append(record.group)
            with disk_errors(partial.folder):
                writer.write(serialize(record))
            report.records += 1
            done += 1
            advance(1)
        with disk_errors(partial.folder):
            writer.close()
            report.size_bytes, report.sha256 = temporary.stat().st_size, _sha256(temporary)
            temporary.chmod(0o666 & ~current_umask())
            temporary.replace(path)
            partial.write_text(
                partial.report_path(shard.file_name), json.dumps(dataclasses.asdict(report))
            )
    finally:
        temporary.unlink(missing_ok=True)
    advance(size - done)
    return "written anew" if found else "written"


def finished(partial: Partial, shard: Shard, stamp: str) -> bool:
    """Return whether the shard and its report are whole and of what `stamp` stands for."""
    try:
        report, path = read_report(partial, shard), partial.path(shard.file_name)
        if report.stamp != stamp or path.stat().st_size != report.size_bytes:
            return False
        if len(report.groups) != report.records:
            return False
        return _sha256(path) == report.sha256
    except (OSError, ValueError, TypeError):
        return False


def read_report(partial: Partial, shard: Shard) -> ShardReport:
    """Return the shard's report as it was written."""
    return ShardReport(**json.loads(partial.report_path(shard.file_name).read_text()))


def stamp_of(*facts: Any) -> str:
    """Return a digest of plain values, dataclasses and containers of them, and of our version.

    A Path stands for its file: where it is, its size and when it was last written.
    """
    return hashlib.sha256(repr([__version__, schema.FORMAT, _plain(facts)]).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        try:
            status = value.stat()
            return os.path.abspath(value), status.st_size, status.st_mtime_ns
        except OSError:
            return os.path.abspath(value), None
    if dataclasses.is_dataclass(value):
        fields = [(f.name, _plain(getattr(value, f.name))) for f in dataclasses.fields(value)]
        return type(value).__name__, fields
    if isinstance(value, Mapping):
        return sorted((repr(key), _plain(entry)) for key, entry in value.items())
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(entry) for entry in value]
    return value


def _serializer(kind: schema.Kind) -> Callable[[Any], bytes]:
    features = schema.features(kind)
    specs: Any = features.get_serialized_info()
    serializer = ExampleSerializer(specs)

    def serialize(record: Any) -> bytes:
        example = features.encode_example(schema.to_example(record))
        # TFDS's own bytes have the fields in an order that changes with the process
        return serializer.get_tf_example(example).SerializeToString(deterministic=True)

    return serialize


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
