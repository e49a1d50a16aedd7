"""Check the target folder of records, and write the metadata that completes them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omfa_jax.core.atomic_dirs import require_own_output, resolve_target
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import RemotePath, is_remote, to_path
from omfa_jax.core.remote_dirs import require_own_objects
from omfa_jax.data.records import pose_groups, record_schema
from omfa_jax.data.records.remote_staging import require_free_prefix
from omfa_jax.data.records.shards import Shard, read_shard_report
from omfa_jax.data.records.staging import RECORD_FILES, StagingFolder, convert_disk_errors


def finalize_records(
    partial: StagingFolder,
    kind: record_schema.Kind,
    shards: Sequence[Shard],
    facts: Mapping[str, Any],
) -> None:
    """Write TFDS's metadata, the pose groups and the manifest with `facts`, after all the shards.

    A split without a single record is dropped from the result.
    """
    splits: dict[str, list[tuple[str, int]]] = {}
    for shard in shards:
        if shard.split in facts["splits"]:
            records = read_shard_report(partial, shard).records
            splits.setdefault(shard.split, []).append((shard.file_name, records))
        else:
            partial.get_shard_path(shard.file_name).unlink()
    with convert_disk_errors(partial.folder):
        for split, written in splits.items():
            members = (shard for shard in shards if shard.split == split)
            names = (name for shard in members for name in read_shard_report(partial, shard).groups)
            numbers = pose_groups.number_groups(names, sum(records for _, records in written))
            path = partial.get_shard_path(pose_groups.GROUPS_FILE.format(split))
            with path.open("wb") as file:
                np.save(file, numbers)
        partial.write_metadata(kind, splits)
        record_schema.write_manifest(partial.records, kind, partial.dataset_path, **facts)


def require_free(out_dir: str | os.PathLike, overwrite: bool, kind: record_schema.Kind) -> None:
    """Raise an OmfaError unless `out_dir` is new, empty, or holds records of `kind` to replace."""
    folder = to_path(out_dir) if is_remote(out_dir) else resolve_target(out_dir)
    if isinstance(folder, RemotePath):
        require_free_prefix(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OmfaError(f"--out {folder}: expected a folder, found a file")
    if (folder / record_schema.MANIFEST).is_file():
        if not overwrite:
            raise OmfaError(f"{folder} already holds records; add --overwrite or change --out")
        there = record_schema.read_manifest(folder)["kind"]
        if there != kind:
            raise OmfaError(
                f"{folder} holds {there}, which --overwrite does not replace with {kind}; change"
                " --out"
            )
    elif not isinstance(folder, RemotePath) and any(folder.iterdir()):
        raise OmfaError(f"{folder} holds files that are not records; change --out")
    if isinstance(folder, RemotePath):
        # without a manifest: of a run that was killed while it published
        require_own_objects(folder, RECORD_FILES)
    else:
        require_own_output(folder, RECORD_FILES)
