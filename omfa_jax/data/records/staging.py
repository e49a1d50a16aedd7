"""The hidden staging folder in which a records folder is built, across restarts.

It may hold no foreign files when a run begins. Files that appear later are kept and logged. Of
object storage see `remote_staging`.

.NAME.partial/records/    becomes NAME
              progress/   reports and items of the shards
              temporary/  files being written; deleted after a kill
              old/        the folder being replaced, while it is
"""

import contextlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from omfa_jax.core.atomic_dirs import (
    delete_entries,
    delete_matching,
    list_tree,
    replace_dir,
    require_known_contents,
    require_same_owner,
    resolve_target,
)
from omfa_jax.core.atomic_files import TEMPORARY_GLOB, atomic_write, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, RemotePath, is_remote
from omfa_jax.core.remote_dirs import require_own_objects
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.remote_staging import (
    discard_objects,
    publish_objects,
    require_free_prefix,
    require_own_staging,
)

log = logging.getLogger(__name__)

# patterns of all files of a records folder
RECORD_FILES = (
    record_schema.MANIFEST,
    *(
        f"*/*/{name}"
        for name in ("*.array_record-*", "features.json", "dataset_info.json", "groups-*.npy")
    ),
)
# patterns of all files of the staging folder
# names that tempfile gives
_TORN = "tmp????????"
_SHARD = "*.array_record-*-of-*"
_GROWING = (
    *(f"records/{pattern}" for pattern in RECORD_FILES),
    f"progress/{_SHARD}.json",
    f"progress/{_SHARD}.items",
    f"progress/{TEMPORARY_GLOB}.json",
    f"temporary/{_TORN}",
    _TORN,
)
_OLD = tuple(f"old/{pattern}" for pattern in RECORD_FILES)


@dataclass(frozen=True)
class StagingFolder:
    """The paths of a staging folder; picklable.

    `dataset_path`: the TFDS data set's path within the records folder, NAME/VERSION.
    """

    folder: AnyPath
    dataset_path: str

    @property
    def records(self) -> AnyPath:
        """The future records folder."""
        return self.folder / "records"

    @property
    def progress(self) -> AnyPath:
        """The folder of the shards' reports and items."""
        return self.folder / "progress"

    @property
    def temporary(self) -> AnyPath:
        """The folder of files being written."""
        return self.folder / "temporary"

    def get_shard_path(self, file_name: str) -> AnyPath:
        """Return the path of a finished shard."""
        return self.records / self.dataset_path / file_name

    def get_report_path(self, file_name: str) -> AnyPath:
        """Return the path of a finished shard's report."""
        return self.progress / f"{file_name}.json"

    def get_items_path(self, file_name: str) -> AnyPath:
        """Return the path of a shard's items."""
        return self.progress / f"{file_name}.items"

    def write_text(self, path: AnyPath, text: str) -> None:
        """Write a small text file atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(text)

    def delete_other_shards(self, file_names: Collection[str]) -> None:
        """Delete the shards of an earlier run that are not in this list."""
        wanted = {self.get_shard_path(name) for name in file_names}
        if isinstance(self.records, RemotePath):
            found = require_own_objects(self.records, RECORD_FILES)
        else:
            found = require_known_contents(self.records, RECORD_FILES)
        paths = [self.records / name for name in found if not name.endswith("/")]
        others = [path for path in paths if path not in wanted]
        shards = [path for path in others if ".array_record-" in path.name]
        if shards:
            log.warning(
                "%s: deleting %d shards of another data set, item list or --shard-records; their"
                " records will be written again",
                self.folder,
                len(shards),
            )
        for path in others:
            path.unlink()
            self.get_report_path(path.name).unlink(missing_ok=True)

    def write_metadata(
        self, kind: record_schema.Kind, splits: Mapping[str, Sequence[tuple[str, int]]]
    ) -> None:
        """Write TFDS's metadata; `splits` has the (file name, records) of each split's shards."""
        with contextlib.ExitStack() as stack:
            place = self.records / self.dataset_path
            if not isinstance(place, RemotePath):
                self._write_metadata(epath.Path(place), kind, splits)
                return
            local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omfa-")))
            # TFDS takes the number of shards from the names of files
            for name, _ in itertools.chain.from_iterable(splits.values()):
                (local / name).touch()
            self._write_metadata(epath.Path(local), kind, splits)
            for name in (record_schema.DATASET_INFO, record_schema.FEATURES):
                (place / name).upload(local / name)

    def _write_metadata(
        self,
        folder: epath.Path,
        kind: record_schema.Kind,
        splits: Mapping[str, Sequence[tuple[str, int]]],
    ) -> None:
        dataset, version = Path(self.dataset_path).parts
        infos = []
        for split, shards in splits.items():
            template = tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=dataset, split=split, filetype_suffix="array_record"
            )
            info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=[records for _, records in shards],
                num_bytes=sum(self.get_shard_path(name).stat().st_size for name, _ in shards),
                filename_template=template,
            )
            infos.append(info)
        # check_data would import TensorFlow
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=record_schema.make_features(kind),
            split_infos=infos,
            version=version,
            check_data=False,
            disable_shuffling=True,
        )

    def publish(self, out_dir: str | os.PathLike) -> None:
        """Move the finished records to `out_dir`, which may hold nothing but records."""
        folder, records = self.folder, self.records
        if isinstance(folder, RemotePath) or isinstance(records, RemotePath):
            out = RemotePath(out_dir)
            with convert_disk_errors(folder):
                publish_objects(RemotePath(records), out, RECORD_FILES, record_schema.MANIFEST)
            self.discard()
            return
        out, old = resolve_target(out_dir), folder / "old"
        # left by a run that was killed between the two renames
        if os.path.lexists(old):
            delete_entries(old, require_known_contents(old, RECORD_FILES))
        with convert_disk_errors(self.folder):
            replace_dir(records, out, RECORD_FILES, old)
        self.discard()

    def discard(self) -> None:
        """Delete the folder, except for foreign files; nothing if it is deleted already."""
        if isinstance(self.folder, RemotePath):
            discard_objects(self.folder, _GROWING)
        elif os.path.lexists(self.folder):
            delete_matching(self.folder, _GROWING)


@contextlib.contextmanager
def open_staging_folder(out_dir: str | os.PathLike, place: str) -> Iterator[StagingFolder]:
    """Yield the staging folder of `out_dir`, locked for this process.

    If the block fails, the folder is kept for a restart if any shard is finished. Raises OmfaError
    if it cannot be written or another process uses it.
    """
    if is_remote(out_dir):
        with _open_remote(RemotePath(out_dir), place) as partial:
            yield partial
        return
    out = resolve_target(out_dir)
    folder = out.with_name(f".{out.name}.partial")
    partial = StagingFolder(folder, place)
    if os.path.islink(folder) or folder.is_file():
        raise OmfaError(f"{folder}: expected a folder; move the file away or change --out")
    with convert_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refusal = f"another run is writing {folder}: wait for it, stop it, or change --out"
    with exclusive_lock(folder, refusal):
        _require_own(folder, out)
        with _keep_finished_shards(partial):
            with convert_disk_errors(partial.folder):
                for path in partial.temporary.glob(_TORN):
                    path.unlink()
                for inner in (partial.records / place, partial.progress, partial.temporary):
                    inner.mkdir(parents=True, exist_ok=True)
            yield partial


@contextlib.contextmanager
def _open_remote(out: RemotePath, place: str) -> Iterator[StagingFolder]:
    require_free_prefix(out)
    folder = out.with_name(f".{out.name}.partial")
    partial = StagingFolder(folder, place)
    refusal = f"another run is writing {folder}: wait for it, stop it, or change --out"
    with exclusive_lock(folder, refusal):
        require_own_staging(folder, _GROWING)
        with _keep_finished_shards(partial):
            yield partial


@contextlib.contextmanager
def _keep_finished_shards(partial: StagingFolder) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if any(partial.progress.glob("*.json")):
            log.warning(
                "kept finished shards in %s: run the same command to resume", partial.folder
            )
        else:
            partial.discard()
        raise


@contextlib.contextmanager
def convert_disk_errors(folder: AnyPath) -> Iterator[None]:
    """Turn write errors into an OmfaError that states the free disk space."""
    try:
        yield
    # ArrayRecord's writer raises RuntimeError when the disk is full
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(folder, RemotePath):
            made = tempfile.gettempdir()
            free = shutil.disk_usage(made).free / 1e6
            raise OmfaError(
                f"the records cannot be written to {folder} ({reason}); shards are made in {made}"
                f" (TMPDIR), where {free:.0f} MB are free"
            ) from error
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e6
        raise OmfaError(
            f"the records cannot be written ({reason}); {free:.0f} MB are free in {there}: free"
            " disk space or change --out"
        ) from error


def _require_own(folder: Path, out: Path) -> None:
    """Raise an OmfaError for foreign files in the staging folder, or another user's in the two.

    Call it with the lock held: another run creates and deletes files there.
    """
    listed = require_known_contents(folder, (*_GROWING, *_OLD))
    with convert_disk_errors(folder):
        # not os.getuid(): a network file system may map users (root squash)
        with tempfile.TemporaryFile(dir=folder) as made:
            owner = os.fstat(made.fileno()).st_uid
        require_same_owner(folder, listed, owner)
        require_same_owner(out, list_tree(out) if out.is_dir() else (), owner)
