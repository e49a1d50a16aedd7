"""What every data set's TFDS builder shares: reading items in order, and the build's report."""

import collections
import dataclasses
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import tensorflow_datasets as tfds
from tqdm import tqdm

from omfa_jax.core.errors import OmfaError
from omfa_jax.data import schema

EXAMPLE_KEYS = 3


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

    key: str


Outcome = tuple[schema.Record, Sequence[str]] | OmfaError


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the image data sets: a subclass lists its items and reads one into a record.

    `raw_items(raw_dir, warnings, **item_options)` returns {split: items}; a subclass names the
    options that it takes in `options_taken`. `read(item)` returns the record and its flaws (short
    phrases), or raises an OmfaError, which skips the item. Items are read by `processes` processes
    and written in their own order.
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
        processes: int = 1,
        item_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.report = BuildReport()
        self._raw_dir = raw_dir
        self._item_options = dict(item_options or {})
        self._processes = processes
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=schema.features("images"), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits = {}
        listed = type(self).raw_items(self._raw_dir, self.report.warnings, **self._item_options)
        for split, items in listed.items():
            self.report.found += len(items)
            examples = self._generate_examples(split, items)
            first = next(examples, None)
            # TFDS does not accept a split without examples
            if first is not None:
                splits[split] = itertools.chain([first], examples)
        if not splits:
            raise OmfaError(_nothing_built(self._raw_dir, self.report))
        return splits

    def _generate_examples(
        self, split: str, items: Sequence[Item]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        flaws: dict[str, list[str]] = collections.defaultdict(list)
        built = 0
        outcomes = in_order(type(self).read, items, self._processes)
        bar = tqdm(zip(items, outcomes, strict=True), split, len(items), unit="item", disable=None)
        for item, outcome in bar:
            if isinstance(outcome, OmfaError):
                self.report.skipped.append((f"{split}/{item.key}", str(outcome)))
                continue
            record, found = outcome
            for flaw in found:
                flaws[flaw].append(record.key)
            yield built, schema.to_example(record)
            built += 1
            self.report.built_per_split[split] = built
        for flaw, keys in flaws.items():
            self.report.warnings.append(f"{split}: {_some(keys)} of {built} records: {flaw}")


def in_order(
    read: Callable[[Any], tuple[schema.Record, Sequence[str]]],
    items: Iterable[Item],
    processes: int,
) -> Iterator[Outcome]:
    """Yield what `read` makes of each item, in the items' order; an OmfaError comes as a value.

    With several processes only a few items per process are in flight, so memory stays bounded.
    """
    if processes <= 1:
        yield from (_attempt(read, item) for item in items)
        return
    # forking a program that runs threads can hang it, so workers start afresh
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _end_with_parent) as pool:
        rest = iter(items)
        flying = collections.deque(
            pool.submit(_attempt, read, item) for item in itertools.islice(rest, 4 * processes)
        )
        try:
            while flying:
                yield flying.popleft().result()
                flying.extend(pool.submit(_attempt, read, i) for i in itertools.islice(rest, 1))
        except BrokenProcessPool:
            hint = "a script must guard its main part with if __name__ == '__main__'"
            raise OmfaError(
                f"a worker process died: out of memory (give less to --processes), or {hint}"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is killed; the pool's workers would wait for ever."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _attempt(read: Callable[[Any], tuple[schema.Record, Sequence[str]]], item: Item) -> Outcome:
    try:
        return read(item)
    except OmfaError as error:
        return error


def _some(keys: Sequence[str]) -> str:
    names = ", ".join(keys[:EXAMPLE_KEYS]) + (", ..." if len(keys) > EXAMPLE_KEYS else "")
    return f"{len(keys)} ({names})"


def _nothing_built(raw_dir: str, report: BuildReport) -> str:
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
