"""What every data set's TFDS builder shares: reading items into shards, and the build's report."""

import dataclasses
import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import tensorflow_datasets as tfds

from omfa_jax.core.errors import OmfaError
from omfa_jax.data import schema
from omfa_jax.data.partial import Partial, disk_errors
from omfa_jax.data.shards import (
    Shard,
    ShardReport,
    cut,
    read_report,
    stamp_of,
)
from omfa_jax.data.writing import SHARD_RECORDS

EXAMPLE_KEYS = 3

log = logging.getLogger(__name__)


@dataclass
class BuildReport:
    """What a build found and made.

    `skipped` holds ("split/key", reason) of every item left out; `warnings` one line per flaw that
    records were kept with; `built_per_split` the records of each split that has any.
    """

    found: int = 0
    built_per_split: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def built(self) -> int:
        """Records written, all splits together."""
        return sum(self.built_per_split.values())


@runtime_checkable
class Item(Protocol):
    """One row of a data set before it is read; picklable."""

    @property
    def key(self) -> str:
        """Unique in its split."""
        ...


class RecordsBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of the image data sets: a subclass lists its items and reads one into a record.

    `raw_items(raw_dir, warnings, **item_options)` returns {split: items}, in the same order each
    time it is called; a subclass names the options that it takes in `options_taken`. `read(item)`
    returns the record and its flaws (short phrases), or raises an OmfaError, which skips the item.
    A restarted build notices that a file has changed if an item's field holds its Path.

    `build` writes the shards itself, restartably; `download_and_prepare` writes the same ones by
    TFDS's means, and those alone.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS's search for its checksum files needs a package that it does not declare (4.9.10)
    code_path = None

    options_taken: tuple[str, ...] = ()
    raw_items: Callable[..., Mapping[str, Sequence[Item]]]
    read: Callable[[Any], tuple[schema.Record, Sequence[str]]]

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
            builder=self, features=schema.features("images"), disable_shuffling=True
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        warnings: list[str] = []
        splits = type(self).raw_items(self._raw_dir, warnings, **self._item_options)
        for warning in warnings:
            log.warning(warning)
        shards: dict[str, list] = {}
        for shard in cut(self.name, {s: len(i) for s, i in splits.items()}, self._shard_records):
            items = splits[shard.split][shard.start : shard.stop]
            examples = functools.partial(_examples, type(self).read, items)
            shards.setdefault(shard.split, []).append(examples)
        return shards


@dataclass(frozen=True)
class ImageShards:
    """The shards of a data set's pictures: reads the items that `put` left beside the shards."""

    builder: type[RecordsBuilder]
    partial: Partial
    kind: schema.Kind = "images"

    def put(self, shard: Shard, items: Sequence[Item]) -> None:
        """Write down the shard's items, for whichever process will read them."""
        with disk_errors(self.partial.folder):
            self.partial.items_path(shard.file_name).write_bytes(pickle.dumps(list(items)))

    def items(self, shard: Shard) -> list[Item]:
        """Return the shard's items."""
        return pickle.loads(self.partial.items_path(shard.file_name).read_bytes())

    def stamp(self, shard: Shard) -> str:
        """Return a digest of the items and of the state of their files."""
        return stamp_of(self.builder.name, str(self.builder.VERSION), shard, self.items(shard))

    def records(self, shard: Shard, report: ShardReport) -> Iterator[schema.Record]:
        """Yield the records of the items that can be read; `report` takes skips and flaws."""
        for item in self.items(shard):
            outcome = _attempt(self.builder.read, item)
            if isinstance(outcome, OmfaError):
                report.skipped.append((item.key, str(outcome)))
                continue
            record, flaws = outcome
            for flaw in flaws:
                count, keys = report.flaws.get(flaw, (0, []))
                report.flaws[flaw] = (count + 1, [*keys, record.key][:EXAMPLE_KEYS])
            yield record


def merged(partial: Partial, shards: Sequence[Shard], warnings: Sequence[str]) -> BuildReport:
    """Return the report of the whole build from its shards' own, whenever they were written."""
    report = BuildReport(warnings=list(warnings))
    flaws: dict[str, dict[str, tuple[int, list[str]]]] = {}
    for shard in shards:
        part, split = read_report(partial, shard), shard.split
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
            report.warnings.append(f"{split}: {_some(count, keys)} of {built} records: {flaw}")
    return report


def _examples(
    read: Callable[[Any], tuple[schema.Record, Sequence[str]]], items: Sequence[Item]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, item in enumerate(items):
        outcome = _attempt(read, item)
        if isinstance(outcome, OmfaError):
            log.warning("skipped %s: %s", item.key, outcome)
        else:
            yield number, schema.to_example(outcome[0])


def _attempt(
    read: Callable[[Any], tuple[schema.Record, Sequence[str]]], item: Item
) -> tuple[schema.Record, Sequence[str]] | OmfaError:
    try:
        return read(item)
    except OmfaError as error:
        return error


def _some(count: int, keys: Sequence[str]) -> str:
    return f"{count} ({', '.join(keys)}{', ...' if count > len(keys) else ''})"


def nothing_built(raw_dir: str, report: BuildReport) -> str:
    """Return what to say of a build without a single record."""
    reasons = "; ".join(f"{key}: {reason}" for key, reason in report.skipped[:EXAMPLE_KEYS])
    return f"{raw_dir}: none of the {report.found} items could be built ({reasons or 'no items'})"


def summary(report: BuildReport) -> str:
    """Return the report as text: counts, then a line for every warning and skipped item."""
    splits = ", ".join(f"{split} {count}" for split, count in report.built_per_split.items())
    lines = [f"found {report.found}, built {report.built} ({splits})"]
    lines += [f"warning: {line}" for line in report.warnings]
    lines += [f"skipped {key}: {reason}" for key, reason in report.skipped]
    return "\n".join(lines)


def as_facts(report: BuildReport) -> dict[str, Any]:
    """Return the report as JSON-able facts for the manifest."""
    return dataclasses.asdict(report)
