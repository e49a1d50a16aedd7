"""The base class of the data sets' TFDS builders, the source of their shards, and the report."""

import dataclasses
import functools
import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import tensorflow_datasets as tfds

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.file_states import FileState, FileStates
from omfa_jax.core.paths import RemotePath, to_path
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.shards import (
    Shard,
    ShardReport,
    compute_stamp,
    find_remote_paths,
    plan_shards,
    read_shard_report,
)
from omfa_jax.data.records.staging import StagingFolder, convert_disk_errors
from omfa_jax.data.records.write_options import SHARD_RECORDS

EXAMPLE_KEYS = 3

log = logging.getLogger(__name__)


@dataclass
class BuildReport:
    """The result of a build.

    `skipped`: ("split/key", reason) of every skipped item. `warnings`: one line per kind of flaw in
    the records. `built_per_split`: records of each non-empty split. Saved in the manifest.
    """

    found: int = 0
    built_per_split: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def built(self) -> int:
        """Number of records in all splits."""
        return sum(self.built_per_split.values())


@runtime_checkable
class RawItem(Protocol):
    """One row of a raw data set, not yet read; picklable."""

    @property
    def key(self) -> str:
        """The key, unique in its split."""
        ...


class RecordsBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base class of the data sets: a subclass lists its items and reads one item into a record.

    `list_items(raw_dir, warnings, **item_options)` returns {split: items}, in a deterministic
    order; `item_option_names` names the options it accepts. `read(item)` returns the record and its
    flaws (short phrases), or raises an OmfaError, which skips the item. Items must hold the Path of
    every file they depend on: a restarted build then detects that a file has changed.

    `build_records` writes the shards itself, resumable; `download_and_prepare` writes the same
    shards with TFDS.
    """

    VERSION = tfds.core.Version("1.0.0")
    # disables TFDS's search for checksum files, which imports an undeclared dependency (4.9.10)
    code_path = None

    item_option_names: tuple[str, ...] = ()
    list_items: Callable[..., Mapping[str, Sequence[RawItem]]]
    read: Callable[[Any], tuple[record_schema.Record, Sequence[str]]]

    def __init__(
        self,
        *,
        raw_dir: str,
        shard_records: int = SHARD_RECORDS,
        item_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._raw_dir = raw_dir
        self._item_options = dict(item_options or {})
        self._shard_records = shard_records
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            # TFDS would shuffle once and for all; the pipeline shuffles anew in every epoch
            builder=self,
            features=record_schema.make_features("images"),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        warnings: list[str] = []
        splits = type(self).list_items(self._raw_dir, warnings, **self._item_options)
        for warning in warnings:
            log.warning(warning)
        shards: dict[str, list] = {}
        for shard in plan_shards(
            self.name, {s: len(i) for s, i in splits.items()}, self._shard_records
        ):
            items = splits[shard.split][shard.start : shard.stop]
            examples = functools.partial(_iter_examples, type(self).read, items)
            shards.setdefault(shard.split, []).append(examples)
        return shards


@dataclass(frozen=True)
class ImageShardSource:
    """Source of the image records of a shard, read from the items that `store_items` stored.

    Items are stored in files so that worker processes load those of their own shards only.
    """

    builder: type[RecordsBuilder]
    partial: StagingFolder
    raw_dir: str
    kind: record_schema.Kind = "images"

    def store_items(
        self, shard: Shard, items: Sequence[RawItem], states: FileStates | None = None
    ) -> None:
        """Store the shard's items, and what is known of their files, for the process that reads.

        `states` lists each folder of object storage once for all shards.
        """
        known = (states or FileStates()).get(find_remote_paths(items))
        with convert_disk_errors(self.partial.folder):
            path = self.partial.get_items_path(shard.file_name)
            path.write_bytes(pickle.dumps((list(items), known)))

    def load_items(self, shard: Shard) -> list[RawItem]:
        """Load the shard's items."""
        return self._load(shard)[0]

    def stamp(self, shard: Shard) -> str:
        """Return a digest of the items and of the size and time of their files."""
        items, known = self._load(shard)
        facts = (self.builder.name, str(self.builder.VERSION), shard, items)
        return compute_stamp(*facts, known=known)

    def _load(self, shard: Shard) -> tuple[list[RawItem], dict[RemotePath, FileState | None]]:
        return pickle.loads(self.partial.get_items_path(shard.file_name).read_bytes())

    def iter_records(self, shard: Shard, report: ShardReport) -> Iterator[record_schema.Record]:
        """Yield the records of all readable items; skips and flaws go to `report`.

        Raises OmfaError if this process does not see the raw data set.
        """
        # else a machine without the mount would skip all of its items as photos that are missing
        self._require_raw_dir()
        for item in self.load_items(shard):
            # one unusable item must not stop a build of hours
            outcome = _try_read(self.builder.read, item)
            if isinstance(outcome, OmfaError):
                report.skipped.append((item.key, str(outcome)))
                continue
            record, flaws = outcome
            for flaw in flaws:
                count, keys = report.flaws.get(flaw, (0, []))
                report.flaws[flaw] = (count + 1, [*keys, record.key][:EXAMPLE_KEYS])
            yield record

    def _require_raw_dir(self) -> None:
        root = to_path(self.raw_dir)
        try:
            if isinstance(root, RemotePath):
                found = "" if root.is_dir() else "nothing"
            else:
                with os.scandir(root) as entries:
                    found = "" if next(entries, None) else "an empty folder"
        except OSError as error:
            found = error.strerror or str(error)
        if found:
            raise OmfaError(
                f"{self.raw_dir}: expected the raw data set on {socket.gethostname()}, found"
                f" {found}: every machine that writes shards needs --raw under this path"
            )


def merge_reports(
    partial: StagingFolder, shards: Sequence[Shard], warnings: Sequence[str]
) -> BuildReport:
    """Return the report of the build, merged from the stored reports of all shards."""
    # from the stored reports, so that a resumed build reports like an uninterrupted one
    report = BuildReport(warnings=list(warnings))
    flaws: dict[str, dict[str, tuple[int, list[str]]]] = {}
    for shard in shards:
        part, split = read_shard_report(partial, shard), shard.split
        report.found += shard.stop - shard.start
        report.skipped += [(f"{split}/{key}", reason) for key, reason in part.skipped]
        if part.records:
            built = report.built_per_split.get(split, 0)
            report.built_per_split[split] = built + part.records
        found = flaws.setdefault(split, {})
        for flaw, (count, keys) in part.flaws.items():
            before, first = found.get(flaw, (0, []))
            found[flaw] = (before + count, [*first, *keys][:EXAMPLE_KEYS])
    for split, found in flaws.items():
        built = report.built_per_split.get(split, 0)
        for flaw, (count, keys) in found.items():
            report.warnings.append(
                f"{split}: {_format_some(count, keys)} of {built} records: {flaw}"
            )
    return report


def count_flaw(partial: StagingFolder, shards: Sequence[Shard], flaw: str) -> dict[str, int]:
    """Return {split: number of records with this flaw}, without splits that have none."""
    counts: dict[str, int] = {}
    for shard in shards:
        found, _ = read_shard_report(partial, shard).flaws.get(flaw, (0, []))
        if found:
            counts[shard.split] = counts.get(shard.split, 0) + found
    return counts


def _iter_examples(
    read: Callable[[Any], tuple[record_schema.Record, Sequence[str]]], items: Sequence[RawItem]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, item in enumerate(items):
        outcome = _try_read(read, item)
        if isinstance(outcome, OmfaError):
            log.warning("skipped %s: %s", item.key, outcome)
        else:
            yield number, record_schema.to_example(outcome[0])


def _try_read(
    read: Callable[[Any], tuple[record_schema.Record, Sequence[str]]], item: RawItem
) -> tuple[record_schema.Record, Sequence[str]] | OmfaError:
    try:
        return read(item)
    except OmfaError as error:
        return error


def _format_some(count: int, keys: Sequence[str]) -> str:
    return f"{count} ({', '.join(keys)}{', ...' if count > len(keys) else ''})"


def format_empty_build(raw_dir: str, report: BuildReport) -> str:
    """Return the error message of a build without a single record."""
    reasons = "; ".join(f"{key}: {reason}" for key, reason in report.skipped[:EXAMPLE_KEYS])
    return f"{raw_dir}: none of the {report.found} items could be built ({reasons or 'no items'})"


def format_build_report(report: BuildReport) -> str:
    """Return the report as text: counts, then one line per warning and skipped item."""
    splits = ", ".join(f"{split} {count}" for split, count in report.built_per_split.items())
    lines = [f"found {report.found}, built {report.built} ({splits})"]
    lines += [f"warning: {line}" for line in report.warnings]
    lines += [f"skipped {key}: {reason}" for key, reason in report.skipped]
    return "\n".join(lines)


def convert_to_manifest_facts(report: BuildReport) -> dict[str, Any]:
    """Return the report as JSON-serializable facts for the manifest."""
    return dataclasses.asdict(report)
