"""From a raw data set folder to a records folder that is whole or absent."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omfa_jax.body.pose_maps import styles_under
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.folders import require_apart, require_ours, resolve_target
from omfa_jax.data import pairing, schema
from omfa_jax.data.builder import (
    BuildReport,
    ImageShards,
    RecordsBuilder,
    as_facts,
    merged,
    nothing_built,
    summary,
)
from omfa_jax.data.deepfashion import DeepFashionMultiModal
from omfa_jax.data.dresscode import DressCode
from omfa_jax.data.layouts import detect, wrong_layout
from omfa_jax.data.partial import RECORDS, Partial, disk_errors, partial_folder
from omfa_jax.data.runners import write_all
from omfa_jax.data.shards import Shard, cut, read_report
from omfa_jax.data.viton_hd import VitonHD
from omfa_jax.data.writing import SHARD_RECORDS, Writing

BUILDERS: dict[str, type[RecordsBuilder]] = {
    builder.name: builder for builder in (VitonHD, DeepFashionMultiModal, DressCode)
}

log = logging.getLogger(__name__)


def build(
    raw_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    dataset: str = "viton_hd",
    processes: int = 1,
    overwrite: bool = False,
    shard_records: int = SHARD_RECORDS,
    runner: str = "local",
    beam_options: str = "",
    item_options: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Write the raw folder's records to `out_dir` and return what was found, built and skipped.

    `item_options` go to the data set's `raw_items`: see `options_taken` of its builder. Items that
    cannot be used are skipped with a reason and the build goes on. `out_dir` appears only when
    everything is written; until then finished shards of `shard_records` items lie in a hidden
    folder beside it, and a build that was killed goes on from them. `runner`: "local" (`processes`
    of this machine) or "beam" (`beam_options` as on its command line); the bytes are the same.
    Raises OmfaError if the layout is not `dataset`'s, if nothing could be built, or if `out_dir`
    holds something already (`overwrite` replaces records only).
    """
    require_apart(out_dir, {"--raw": raw_dir})
    how = Writing(shard_records, runner, beam_options, processes)
    if dataset not in BUILDERS:
        raise unknown("data set", dataset, BUILDERS)
    builder = BUILDERS[dataset]
    for name in item_options or {}:
        if name not in builder.options_taken:
            flag = name.replace("_", "-")
            raise OmfaError(f"--{flag} has no meaning for --dataset {dataset}; leave it out")
    require_free(out_dir, overwrite, "images")
    styles = styles_under(raw_dir)
    if len(styles) > 1:
        raise OmfaError(
            f"{raw_dir}: its splits hold pose maps of several styles ({', '.join(styles)});"
            " delete the pose/ folders of all but one and run `omfa data poses` again"
        )
    warnings: list[str] = []
    splits = builder.raw_items(os.fspath(raw_dir), warnings, **(item_options or {}))
    shards = cut(builder.name, {name: len(items) for name, items in splits.items()}, shard_records)
    with partial_folder(out_dir, f"{builder.name}/{builder.VERSION}") as partial:
        source = ImageShards(builder, partial)
        for shard in shards:
            source.put(shard, splits[shard.split][shard.start : shard.stop])
        del splits
        write_all(partial, source, shards, how)
        report = merged(partial, shards, warnings)
        if not report.built:
            partial.discard()
            raise OmfaError(nothing_built(os.fspath(raw_dir), report))
        facts = {
            "splits": report.built_per_split,
            "pose_style": styles[0] if styles else None,
            "report": as_facts(report),
        }
        finish(partial, "images", shards, facts)
        require_free(out_dir, overwrite, "images")
        partial.publish(out_dir)
    log.info("%s: %s", out_dir, summary(report))
    return report


def finish(
    partial: Partial, kind: schema.Kind, shards: Sequence[Shard], facts: Mapping[str, Any]
) -> None:
    """Write what comes after the shards: TFDS's metadata, then the manifest with `facts`.

    A split in which no item became a record has no place in the result.
    """
    splits: dict[str, list[tuple[str, int]]] = {}
    for shard in shards:
        if shard.split in facts["splits"]:
            records = read_report(partial, shard).records
            splits.setdefault(shard.split, []).append((shard.file_name, records))
        else:
            partial.path(shard.file_name).unlink()
    with disk_errors(partial.folder):
        for split, written in splits.items():
            members = (shard for shard in shards if shard.split == split)
            names = (name for shard in members for name in read_report(partial, shard).groups)
            numbers = pairing.numbers_of(names, sum(records for _, records in written))
            np.save(partial.path(pairing.FILE.format(split)), numbers)
        partial.write_metadata(kind, splits)
        schema.write_manifest(partial.records, kind, partial.place, **facts)


def dataset_of(root: Path, dataset: str | None) -> str:
    """Return the name of the data set in a raw folder: the one asked for, else by its layout.

    Raises OmfaError for an unknown name, or a folder without a layout that is known.
    """
    name = dataset or detect(root)
    if name is None:
        raise wrong_layout(root, f"the layout of a data set ({', '.join(BUILDERS)})")
    if name not in BUILDERS:
        raise unknown("data set", name, BUILDERS)
    return name


def require_free(out_dir: str | os.PathLike, overwrite: bool, kind: schema.Kind) -> None:
    """Raise an OmfaError unless `out_dir` is new, empty, or records of `kind` to be replaced."""
    folder = resolve_target(out_dir)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OmfaError(f"{folder} is a file; give a folder to --out")
    if (folder / schema.MANIFEST).is_file():
        if not overwrite:
            raise OmfaError(f"{folder} holds records already; give --overwrite or another --out")
        there = schema.read_manifest(folder)["kind"]
        if there != kind:
            raise OmfaError(
                f"{folder} holds {there}, which --overwrite does not replace with {kind}; give"
                " another folder to --out"
            )
    elif any(folder.iterdir()):
        raise OmfaError(f"{folder} holds files that are not records; give another folder to --out")
    require_ours(folder, RECORDS)
