"""Build a records folder from a raw data set folder."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from omfa_jax.body.pose_maps import find_styles
from omfa_jax.core.atomic_dirs import require_disjoint
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.file_states import FileStates
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.data.builders.deepfashion_multimodal import DeepFashionMultiModal
from omfa_jax.data.builders.dresscode import DressCode
from omfa_jax.data.builders.paired_items import NO_OWN_GARMENT
from omfa_jax.data.builders.raw_layouts import resolve_dataset
from omfa_jax.data.builders.records_builder import (
    BuildReport,
    ImageShardSource,
    RecordsBuilder,
    convert_to_manifest_facts,
    count_flaw,
    format_build_report,
    format_empty_build,
    merge_reports,
)
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.records.finalize import finalize_records, require_free
from omfa_jax.data.records.shard_runners import write_shards
from omfa_jax.data.records.shards import plan_shards
from omfa_jax.data.records.staging import open_staging_folder
from omfa_jax.data.records.write_options import SHARD_RECORDS, WriteOptions

BUILDERS: dict[str, type[RecordsBuilder]] = {
    builder.name: builder for builder in (VitonHD, DeepFashionMultiModal, DressCode)
}

log = logging.getLogger(__name__)


def build_records(
    raw_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    dataset: str | None = None,
    processes: int = 1,
    overwrite: bool = False,
    shard_records: int = SHARD_RECORDS,
    runner: str = "local",
    beam_options: str = "",
    item_options: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Write the raw folder's records to `out_dir` and return what was found, built and skipped.

    Unusable items are skipped and reported with a reason. `out_dir` is created by a rename at the
    end. Until then finished shards are kept in a hidden staging folder next to it, from which the
    same call resumes after a kill. `dataset`: None detects it by the layout. `shard_records`: items
    per shard. `runner`: "local" (`processes` of this machine) or "beam" (with `beam_options` as on
    its command line); both write the same bytes. `item_options` are passed to the data set's
    `list_items` (see `item_option_names` of its builder). Raises OmfaError if the folder does not
    have the layout of `dataset`, if no item can be built, or if `out_dir` is in use (`overwrite`
    replaces records only).
    """
    # --overwrite replaces --out, and must not delete the raw data with it
    require_disjoint(out_dir, {"--raw": raw_dir})
    how = WriteOptions(shard_records, runner, beam_options, processes)
    # absolute: Beam workers may run in another directory
    root = require_any_dir(raw_dir, "raw data set", "--raw").absolute()
    raw_dir = os.fspath(root)
    dataset = resolve_dataset(root, dataset, BUILDERS)
    builder = BUILDERS[dataset]
    options = require_item_options(dataset, item_options or {})
    require_free(out_dir, overwrite, "images")
    # the manifest states one style, on which flips and rendered poses of sampling rely
    styles = find_styles(raw_dir)
    if len(styles) > 1:
        raise OmfaError(
            f"{raw_dir}: expected pose maps of one style, found {', '.join(styles)}; render"
            " all again in one of them: `omfa data poses --overwrite --style STYLE`"
        )
    warnings: list[str] = []
    splits = builder.list_items(raw_dir, warnings, **options)
    shards = plan_shards(
        builder.name, {name: len(items) for name, items in splits.items()}, shard_records
    )
    with open_staging_folder(out_dir, f"{builder.name}/{builder.VERSION}") as partial:
        source, states = ImageShardSource(builder, partial, raw_dir), FileStates()
        for shard in shards:
            # a worker then loads only its own shard's items, and a resumed build the same ones
            source.store_items(shard, splits[shard.split][shard.start : shard.stop], states)
        # the items are on disk now; a large data set's list takes 2 KB per item
        del splits, states
        write_shards(partial, source, shards, how)
        report = merge_reports(partial, shards, warnings)
        if not report.built:
            # there is nothing to resume: the same call would find nothing again
            partial.discard()
            raise OmfaError(format_empty_build(raw_dir, report))
        facts: dict[str, Any] = {
            "splits": report.built_per_split,
            "pose_style": styles[0] if styles else None,
            "report": convert_to_manifest_facts(report),
        }
        if lacking := count_flaw(partial, shards, NO_OWN_GARMENT):
            facts["without_garment"] = lacking
        finalize_records(partial, "images", shards, facts)
        # again: hours may have passed since the first check
        require_free(out_dir, overwrite, "images")
        partial.publish(out_dir)
    log.info("%s: %s", out_dir, format_build_report(report))
    return report


def require_item_options(dataset: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options if the data set's builder has all of them; else raise an OmfaError."""
    for name in options:
        if name not in BUILDERS[dataset].item_option_names:
            flag = name.replace("_", "-")
            raise OmfaError(f"--{flag} does not apply to --dataset {dataset}; remove it")
    return options
