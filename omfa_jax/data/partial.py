"""The hidden folder beside a records folder in which it grows, over restarts, until it is whole.

Nothing else may be in it when a run begins; what comes into it later is not deleted, and is said.

.NAME.partial/records/    what will be NAME
              progress/   reports of the finished shards, their items
              temporary/  what was being written; of no use after a kill
              old/        while the finished folder takes the place of an older one
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import LEFTOVERS, atomic_write, exclusive_lock
from omfa_jax.core.folders import (
    delete_listed,
    delete_named,
    listing,
    put_in_place,
    require_named,
    require_owner,
    resolve_target,
)
from omfa_jax.data import schema

log = logging.getLogger(__name__)

# all that a records folder holds
RECORDS = (
    schema.MANIFEST,
    *(
        f"*/*/{name}"
        for name in ("*.array_record-*", "features.json", "dataset_info.json", "groups-*.npy")
    ),
)
# all that the hidden folder holds while the records grow
_TORN = "tmp????????"
_SHARD = "*.array_record-*-of-*"
_GROWING = (
    *(f"records/{pattern}" for pattern in RECORDS),
    f"progress/{_SHARD}.json",
    f"progress/{_SHARD}.items",
    f"progress/{LEFTOVERS}.json",
    f"temporary/{_TORN}",
    _TORN,
)
_OLD = tuple(f"old/{pattern}" for pattern in RECORDS)


@dataclass(frozen=True)
class Partial:
    """The folder's paths; `place` is the TFDS data set's within the records. Picklable."""

    folder: Path
    place: str

    @property
    def records(self) -> Path:
        """What will be the records folder."""
        return self.folder / "records"

    @property
    def progress(self) -> Path:
        """Reports and items of the shards."""
        return self.folder / "progress"

    @property
    def temporary(self) -> Path:
        """Files that are being written."""
        return self.folder / "temporary"

    def path(self, file_name: str) -> Path:
        """Return where a finished shard lies."""
        return self.records / self.place / file_name

    def report_path(self, file_name: str) -> Path:
        """Return where a finished shard's report lies."""
        return self.progress / f"{file_name}.json"

    def items_path(self, file_name: str) -> Path:
        """Return where a shard's items lie."""
        return self.progress / f"{file_name}.items"

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(text)

    def keep_only(self, file_names: Collection[str]) -> None:
        """Delete what an earlier run left of other shards than these."""
        wanted = {self.path(name) for name in file_names}
        found = require_named(self.records, RECORDS)
        paths = [self.records / name for name in found if not name.endswith("/")]
        others = [path for path in paths if path not in wanted]
        shards = [path for path in others if ".array_record-" in path.name]
        if shards:
            log.warning(
                "%s: %d shards there are of another data set, item list or --shard-records; they"
                " are deleted and their records written anew",
                self.folder,
                len(shards),
            )
        for path in others:
            path.unlink()
            self.report_path(path.name).unlink(missing_ok=True)

    def write_metadata(
        self, kind: schema.Kind, splits: Mapping[str, Sequence[tuple[str, int]]]
    ) -> None:
        """Write TFDS's metadata of splits, each given by its shards' (file name, records)."""
        folder = epath.Path(self.records / self.place)
        dataset, version = Path(self.place).parts
        infos = []
        for split, shards in splits.items():
            template = tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=dataset, split=split, filetype_suffix="array_record"
            )
            info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=[records for _, records in shards],
                num_bytes=sum(self.path(name).stat().st_size for name, _ in shards),
                filename_template=template,
            )
            infos.append(info)
        # TFDS's own look at the result needs TensorFlow
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=schema.features(kind),
            split_infos=infos,
            version=version,
            check_data=False,
            disable_shuffling=True,
        )

    def publish(self, out_dir: str | os.PathLike) -> None:
        """Put the finished records at `out_dir`, where nothing but records may be."""
        out, old = resolve_target(out_dir), self.folder / "old"
        # of a run that was killed between two renames
        if os.path.lexists(old):
            delete_listed(old, require_named(old, RECORDS))
        with disk_errors(self.folder):
            put_in_place(self.records, out, RECORDS, old)
        self.discard()

    def discard(self) -> None:
        """Delete the folder, but for what is not of our making."""
        delete_named(self.folder, _GROWING)


@contextlib.contextmanager
def partial_folder(out_dir: str | os.PathLike, place: str) -> Iterator[Partial]:
    """Yield the hidden folder beside `out_dir`, this process's alone.

    If the block fails, the folder stays for a restart unless no shard in it is finished. Raises
    OmfaError if it cannot be written or another process uses it.
    """
    out = resolve_target(out_dir)
    partial = Partial(out.with_name(f".{out.name}.partial"), place)
    if os.path.islink(partial.folder) or partial.folder.is_file():
        raise OmfaError(f"{partial.folder} is no folder: move it away or give another --out")
    with disk_errors(partial.folder):
        partial.folder.mkdir(parents=True, exist_ok=True)
    refusal = (
        f"another run is writing {partial.folder}: wait for it, stop it, or give another --out"
    )
    with exclusive_lock(partial.folder, refusal):
        _require_own(partial, out)
        with _kept_if_worth_it(partial):
            with disk_errors(partial.folder):
                for path in partial.temporary.glob(_TORN):
                    path.unlink()
                for folder in (partial.records / place, partial.progress, partial.temporary):
                    folder.mkdir(parents=True, exist_ok=True)
            yield partial


@contextlib.contextmanager
def _kept_if_worth_it(partial: Partial) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if any(partial.progress.glob("*.json")):
            log.warning("what is finished stays in %s: the same command goes on", partial.folder)
        else:
            partial.discard()
        raise


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn failures to write into an OmfaError that says how much room there is."""
    try:
        yield
    # ArrayRecord's writer tells of a full disk by a RuntimeError
    except (OSError, RuntimeError) as error:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e6
        reason = " ".join(str(error).split())[:200]
        raise OmfaError(
            f"the records cannot be written ({reason}); {free:.0f} MB are free there: make room"
            " or give another folder to --out"
        ) from error


def _require_own(partial: Partial, out: Path) -> None:
    """Raise an OmfaError if anything else is in the hidden folder, or another user's in the two.

    After the lock: a run that is writing makes and deletes files there.
    """
    folder = partial.folder
    listed = require_named(folder, (*_GROWING, *_OLD))
    with disk_errors(folder):
        with tempfile.TemporaryFile(dir=folder) as made:
            owner = os.fstat(made.fileno()).st_uid
        require_owner(folder, listed, owner)
        require_owner(out, listing(out) if out.is_dir() else (), owner)
