"""From a raw data set folder to a records folder that is whole or absent."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from omfa_jax.body.pose_maps import styles_under
from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.files import atomic_dir
from omfa_jax.data import schema
from omfa_jax.data.builder import BuildReport, RecordsBuilder, as_facts, summary
from omfa_jax.data.deepfashion import DeepFashionMultiModal
from omfa_jax.data.dresscode import DressCode
from omfa_jax.data.viton_hd import VitonHD

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
    item_options: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Write the raw folder's records to `out_dir` and return what was found, built and skipped.

    `item_options` go to the data set's `raw_items`: see `options_taken` of its builder. Items that
    cannot be used are skipped with a reason and the build goes on. `out_dir` appears only when
    everything is written. Raises OmfaError if the layout is not `dataset`'s, if nothing could be
    built, or if `out_dir` holds something already (`overwrite` replaces records only).
    """
    if dataset not in BUILDERS:
        raise unknown("data set", dataset, BUILDERS)
    for name in item_options or {}:
        if name not in BUILDERS[dataset].options_taken:
            flag = name.replace("_", "-")
            raise OmfaError(f"--{flag} has no meaning for --dataset {dataset}; leave it out")
    replaced = require_free(out_dir, overwrite)
    styles = styles_under(raw_dir)
    if len(styles) > 1:
        raise OmfaError(
            f"{raw_dir}: its splits hold pose maps of several styles ({', '.join(styles)});"
            " delete the pose/ folders of all but one and run `omfa data poses` again"
        )
    with atomic_dir(out_dir, replaced) as folder:
        builder = BUILDERS[dataset](
            raw_dir=os.fspath(raw_dir),
            processes=processes,
            item_options=item_options,
            data_dir=folder,
            file_format="array_record",
        )
        prepare(builder)
        report = builder.report
        place = str(builder.data_path.relative_to(folder))
        facts = {
            "splits": report.built_per_split,
            "pose_style": styles[0] if styles else None,
            "report": as_facts(report),
        }
        schema.write_manifest(folder, "images", place, **facts)
    log.info("%s: %s", out_dir, summary(report))
    return report


def require_free(out_dir: str | os.PathLike, overwrite: bool) -> tuple[str, ...]:
    """Raise an OmfaError unless `out_dir` is new, empty, or records that may be replaced.

    Returns the names of what records there hold, all that may be deleted.
    """
    folder = Path(out_dir)
    if not folder.exists():
        return (schema.MANIFEST,)
    if not folder.is_dir():
        raise OmfaError(f"{folder} is a file; give a folder to --out")
    if (folder / schema.MANIFEST).is_file():
        if not overwrite:
            raise OmfaError(f"{folder} holds records already; give --overwrite or another --out")
        place = Path(schema.read_manifest(folder)["builder"]).parts[0]
        return (schema.MANIFEST, place)
    if any(folder.iterdir()):
        raise OmfaError(f"{folder} holds files that are not records; give another folder to --out")
    return (schema.MANIFEST,)


def prepare(builder: tfds.core.GeneratorBasedBuilder) -> None:
    """Run a TFDS builder without its chatter; the records builders have their own progress bar."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        try:
            builder.download_and_prepare(download_dir=downloads)
        # ArrayRecord's writer tells of a full disk by a RuntimeError
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(builder.data_path.parent).free / 1e6
            reason = " ".join(str(error).split())[:200]
            raise OmfaError(
                f"the records cannot be written ({reason}); {free:.0f} MB are free there: make room"
                " or give another folder to --out"
            ) from error
