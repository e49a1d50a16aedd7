"""Check every record of a folder and report the faults by kind."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from omfa_jax.core.errors import OmfaError
from omfa_jax.data.checks import photo_duplicates
from omfa_jax.data.checks.fingerprints import FingerprintStore
from omfa_jax.data.checks.record_faults import (
    FAULT_KINDS,
    HARMLESS_KINDS,
    Finding,
    find_record_faults,
)
from omfa_jax.data.records import record_schema

EXAMPLES_SHOWN = 5


@dataclass
class CheckReport:
    """The number of items checked, and the findings of each kind of `record_faults.FAULT_KINDS`."""

    checked: int = 0
    findings: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, findings: Iterable[Finding]) -> None:
        """Add the findings at a place (SPLIT/KEY)."""
        for kind, what in findings:
            self.findings.setdefault(kind, []).append(f"{where}: {what}")

    @property
    def faults(self) -> tuple[str, ...]:
        """All findings except those that do not harm training."""
        return tuple(
            line
            for kind in FAULT_KINDS
            if kind not in HARMLESS_KINDS
            for line in self.get_findings(kind)
        )

    def get_findings(self, kind: str) -> list[str]:
        """Return the findings of one kind."""
        return self.findings.get(kind, [])


def check_records(records_dir: str | os.PathLike) -> CheckReport:
    """Read and decode every record of every split, image records or latents.

    Besides the faults of single records: a split whose number of records differs from the
    manifest's, a duplicate key, and a photo or person in two splits. Raises OmfaError if the folder
    is not a records folder.
    """
    manifest = record_schema.read_manifest(records_dir)
    report, photos = CheckReport(), _Photos()
    for split, count in manifest["splits"].items():
        source = record_schema.open_records(records_dir, split, counted=False)
        if len(source) != count:
            what = f"expected {count} records as in the manifest, found {len(source)}"
            report.add(split, [("damaged_record", what)])
        seen: set[str] = set()
        # disable=None: no bar where stderr is not a terminal
        for index in tqdm(range(len(source)), split, unit="record", disable=None):
            report.checked += 1
            try:
                record = source[index]
            except OmfaError as error:
                report.add(f"{split}/{index}", [("unreadable", str(error))])
                continue
            where = f"{split}/{record.key}"
            if record.key in seen:
                report.add(where, [("damaged_record", "the key occurs twice")])
            seen.add(record.key)
            if manifest["kind"] == "images":
                report.add(where, find_record_faults(record))
                photos.add(split, record)
            else:
                report.add(where, _latent_faults(record, manifest["latents"]))
    report.add("all splits", photos.findings())
    return report


def format_check_report(report: CheckReport) -> str:
    """Return the report as text: the count of each kind, with its first findings."""
    lines = [f"checked {report.checked}: {len(report.faults) or 'no'} faults"]
    for kind, about in FAULT_KINDS.items():
        if found := report.get_findings(kind):
            note = " (no fault)" if kind in HARMLESS_KINDS else ""
            lines.append(f"{kind}, {about}: {len(found)}{note}")
            lines += [f"  {line}" for line in found[:EXAMPLES_SHOWN]]
            if len(found) > EXAMPLES_SHOWN:
                lines.append(f"  ... and {len(found) - EXAMPLES_SHOWN} more")
    return "\n".join(lines)


class _Photos:
    """Collects the photos and people of all splits, to find those that occur twice."""

    def __init__(self) -> None:
        self._photos: list[photo_duplicates.PhotoEntry] = []
        self._prints = FingerprintStore()
        self._splits: dict[str, set[str]] = {}

    def add(self, split: str, record: record_schema.Record) -> None:
        if record.person_id:
            self._splits.setdefault(record.person_id, set()).add(split)
        try:
            self._prints.add(photo_duplicates.compute_fingerprint(record.person))
        except OmfaError:
            # already reported as unreadable
            return
        self._photos.append(photo_duplicates.PhotoEntry(split, record.key))

    def findings(self) -> Iterator[Finding]:
        yield from find_duplicate_faults(
            photo_duplicates.group_duplicates(self._photos, self._prints)
        )
        for person, splits in sorted(self._splits.items()):
            if len(splits) > 1:
                yield "shared_person", f"{person} is in {' and '.join(sorted(splits))}"


def find_duplicate_faults(groups: Iterable[photo_duplicates.DuplicateGroup]) -> Iterator[Finding]:
    """Yield a finding for every photo that duplicates another."""
    for group in groups:
        kept = f"{group.kept.name} ({group.kept.split})"
        for photo, bits in group.others:
            # across splits it is worse: the person would be trained and tested on
            kind = "duplicate" if photo.split == group.kept.split else "shared_person"
            yield kind, f"{photo.name} ({photo.split}) duplicates {kept}, {bits} bits apart"


def _latent_faults(
    record: record_schema.LatentRecord, facts: Mapping[str, Any]
) -> Iterator[Finding]:
    # with moments, a record stores mean and standard deviation
    arrays = 1 + facts.get("moments", False)
    for name, shape in facts["shapes"].items():
        # little-endian float16, as records store latents on every machine
        latents: np.ndarray[Any, Any] = np.frombuffer(getattr(record, name), "<f2")
        expected = 0 if name == "pose" and not record.has_pose else arrays * int(np.prod(shape))
        if latents.size != expected:
            yield "damaged_record", f"{name} has {latents.size} values, expected {expected}"
        elif not np.isfinite(latents).all():
            yield "damaged_record", f"{name} latents are not finite"
