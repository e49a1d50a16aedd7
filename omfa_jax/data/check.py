"""Reads every record of a folder once and says what is wrong with it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data import schema

FAULTS_SHOWN = 20


@dataclass(frozen=True)
class CheckReport:
    """The number of records read and one line per fault; no faults means the folder is sound."""

    checked: int
    faults: tuple[str, ...]


def check_records(records_dir: str | os.PathLike) -> CheckReport:
    """Read and decode every record of every split, image records or latents.

    A fault is a record that cannot be read or decoded, whose pictures or latents have another size
    than stated, or whose key occurs twice in its split; or a split with another number of records
    than the manifest says. Raises OmfaError if the folder is not a records folder.
    """
    manifest = schema.read_manifest(records_dir)
    faults: list[str] = []
    checked = 0
    for split, count in manifest["splits"].items():
        source = schema.open_records(records_dir, split)
        if len(source) != count:
            faults.append(f"{split}: the manifest says {count} records, there are {len(source)}")
        seen: set[str] = set()
        for index in tqdm(range(len(source)), split, unit="record", disable=None):
            checked += 1
            faults += [f"{split}/{fault}" for fault in _faults(source, index, seen, manifest)]
    return CheckReport(checked, tuple(faults))


def summary(report: CheckReport) -> str:
    """Return the report as text: the counts and the first 20 faults."""
    lines = [f"checked {report.checked} records: {len(report.faults) or 'no'} faults"]
    lines += report.faults[:FAULTS_SHOWN]
    if len(report.faults) > FAULTS_SHOWN:
        lines.append(f"... and {len(report.faults) - FAULTS_SHOWN} more")
    return "\n".join(lines)


def _faults(
    source: schema.RecordSource | Sequence[Any],
    index: int,
    seen: set[str],
    manifest: Mapping[str, Any],
) -> Iterator[str]:
    try:
        record = source[index]
    except Exception as error:  # a damaged file provokes many exception types in the readers
        yield f"{index}: cannot be read: {' '.join(str(error).split())[:200]}"
        return
    if record.key in seen:
        yield f"{record.key}: the key occurs twice"
    seen.add(record.key)
    if manifest["kind"] == "images":
        yield from (f"{record.key}: {fault}" for fault in _picture_faults(record))
    else:
        shapes = {
            name: [1 + manifest["latents"].get("moments", False), *shape]
            for name, shape in manifest["latents"]["shapes"].items()
        }
        yield from (f"{record.key}: {fault}" for fault in _latent_faults(record, shapes))


def _picture_faults(record: schema.Record) -> Iterator[str]:
    wanted = {"person": True, "garment": True, "pose": record.has_pose}
    wanted["unpaired_garment"] = bool(record.unpaired_garment_key)
    for name in (name for name, is_there in wanted.items() if is_there):
        try:
            shape = images.read_rgb(getattr(record, name), name).shape
        except OmfaError as error:
            yield str(error)
            continue
        stated = (record.height_px, record.width_px, 3)
        if name == "person" and shape != stated:
            yield f"person is {shape}, the record says {stated}"
    left, top, right, bottom = record.face_box_px
    if record.has_face and not (right > left and bottom > top):
        yield f"empty face box {record.face_box_px}"


def _latent_faults(
    record: schema.LatentRecord, shapes: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    for name, shape in shapes.items():
        latents = np.frombuffer(getattr(record, name), "<f2")
        expected = 0 if name == "pose" and not record.has_pose else int(np.prod(shape))
        if latents.size != expected:
            yield f"{name} has {latents.size} values, expected {expected}"
        elif not np.isfinite(latents).all():
            yield f"{name} latents are not finite"
