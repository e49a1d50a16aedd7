"""Checkpoints: Orbax steps of {state, EMA, data position, config}, complete or absent.

Checkpoint N holds the state after N updates and the data position after N batches.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.paths import RemotePath, to_path
from omfa_jax.train.checkpoints.checksums import compute_checksums
from omfa_jax.train.checkpoints.integrity import (
    COMMITTED,
    EMA_ITEM,
    ROW_ITEM,
    DamagedCheckpointError,
    describe_missing,
    find_os_error,
    list_complete_steps,
    list_steps,
    list_uncommitted,
    rename_damaged,
    was_ended,
)
from omfa_jax.train.checkpoints.orbax_paths import require_checkpoint_storage, to_orbax
from omfa_jax.train.checkpoints.process_agreement import broadcast_from_first, run_on_all_processes
from omfa_jax.train.checkpoints.restore import (
    CHECKSUMS_ITEM,
    make_state_item,
    read_step,
    verify_checksums,
)
from omfa_jax.train.checkpoints.retention import make_preservation_policy, read_row, to_json_row
from omfa_jax.train.checkpoints.save_errors import make_save_error
from omfa_jax.train.checkpoints.save_threads import join_save_threads
from omfa_jax.train.settings import KeepSettings
from omfa_jax.train.state import TrainState

log = logging.getLogger(__name__)

# in a workdir, next to the checkpoints: everything in the model that training does not change
MODEL_FOLDER = "model"
# Orbax spreads the writing of a replicated array over its replicas, whose slices are programs to
# compile, one for each shape and device; of smaller slices that takes longer than their writing
MIN_SLICE_BYTES = 4 << 20


class Checkpointer:
    """The checkpoints of one workdir; saves run in the background."""

    def __init__(self, workdir: str | os.PathLike, keep: KeepSettings):
        self.folder = to_path(workdir).absolute() / "checkpoints"
        require_checkpoint_storage(self.folder, "--workdir")
        self._keep = keep
        self._opened: ocp.CheckpointManager | None = None
        self._saving: int | None = None
        self._has_failed = False
        self._metrics: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._make_unusable_error(error) from error

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Return (state sharded like `abstract`, data position) of the newest readable step.

        None if the folder holds no step. Damaged or incomplete steps are renamed once an older one
        has been read; if no step can be read, that is an OmfaError and nothing is renamed. The same
        holds for an intact step of another model, and for an OSError of the file system. Process 0
        lists the folder for all (another host's view of a shared folder may be stale), and all
        processes take the same step.
        """
        # network file systems cache directory listings, so hosts may see different steps
        steps = broadcast_from_first(lambda: list_steps(self.folder))
        if not steps:
            broadcast_from_first(self._refuse_unmarked)
            return None
        whole = broadcast_from_first(lambda: list_complete_steps(self.folder, warn=False))
        damage: dict[int, str] = {}
        for step in whole:
            folder = self.folder / str(step)
            read = run_on_all_processes(lambda folder=folder: read_step(folder, abstract))
            # after all have read: the checksums are a collective, in which one that failed to read
            # would be missing
            if not isinstance(read, DamagedCheckpointError):
                read = run_on_all_processes(
                    lambda folder=folder, read=read: verify_checksums(folder, read)
                )
            if not isinstance(read, DamagedCheckpointError):
                # only now: had no step been readable, the folder would stay as it was found
                broadcast_from_first(lambda: self._rename_damaged(damage))
                return read
            damage[step] = str(read)
        found = (damage.get(s) or describe_missing(self.folder / str(s)) for s in steps)
        raise OmfaError(
            f"{self.folder} holds checkpoints but none is complete; refusing to overwrite them"
            " with a new run: repair or remove that folder, or change --workdir. Found:"
            f" {'; '.join(map(str, found))}"
        )

    def _rename_damaged(self, damage: Mapping[int, str]) -> list[int]:
        """Rename every incomplete or damaged step, newer or older: Orbax would count it."""
        broken = []
        for step in list_steps(self.folder):
            folder = self.folder / str(step)
            reason = damage.get(step) or describe_missing(folder)
            if reason is not None:
                rename_damaged(folder, reason)
                broken.append(step)
        return broken

    def _refuse_unmarked(self) -> list[int]:
        """Raise an OmfaError if a folder in object storage has several whole steps, all unmarked.

        A run leaves one at most. Several were copied from a disk, where Orbax needs no mark.
        """
        if isinstance(self.folder, RemotePath):
            unmarked = [s for s in list_uncommitted(self.folder) if was_ended(self.folder / str(s))]
            if len(unmarked) > 1:
                raise OmfaError(
                    f"{self.folder} holds checkpoints {', '.join(map(str, unmarked))}, all without"
                    f" {COMMITTED}, which ends a save in object storage; if they were copied there"
                    f" whole, write an empty {COMMITTED} in each, else change --workdir"
                )
        return []

    def _remove_uncommitted(self) -> list[int]:
        """Delete what saves into object storage left that were cut short; return their steps."""
        assert isinstance(self.folder, RemotePath)
        found = list_uncommitted(self.folder)
        for step in found:
            folder = self.folder / str(step)
            if was_ended(folder):
                rename_damaged(folder, f"checkpoint {folder} was never committed")
            else:
                folder.rmtree()
                log.warning("checkpoint %s was never committed (a save cut short): deleted", folder)
        return found

    def open(self) -> None:
        """Prepare to save; incomplete steps must have been renamed (see `restore`)."""
        is_remote = isinstance(self.folder, RemotePath)
        if is_remote:
            broadcast_from_first(self._remove_uncommitted)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=make_preservation_policy(self._keep, self.folder),
            create=True,
            # in object storage Orbax would delete every folder without a mark, also those set aside
            cleanup_tmp_directories=not is_remote,
            enable_async_checkpointing=True,
            async_options=ocp.options.AsyncOptions(
                barrier_sync_fn=self._wait_at_barrier, create_directories_asynchronously=False
            ),
        )
        # an attribute, for a handler of our own would lack what Orbax's default one is made with
        handler = ocp.type_handlers.get_type_handler(jax.Array)
        handler._min_slice_bytes_for_replica_parallel = MIN_SLICE_BYTES  # type: ignore[attr-defined]
        try:
            self._opened = ocp.CheckpointManager(to_orbax(self.folder), options=options)
        except Exception as error:
            found = find_os_error(error)
            if found is None and not isinstance(error, ValueError):
                raise
            raise self._make_unusable_error(error) from found or error
        # a misspelt metric is an error, one that this step lacks a warning: older rows tell which
        if self._keep.best_of:
            for step in self._opened.all_steps():
                self._metrics |= read_row(self.folder / str(step)).keys()

    def _wait_at_barrier(self, *, key: str, timeout_ms: int) -> None:
        """Wait at Orbax's barrier, unless this process's save failed.

        Orbax calls this in the `finally` of its thread. After a failure the others never arrive,
        and the barrier's timeout is 20 minutes, so the error is raised at once instead.
        """
        failure = sys.exc_info()[1]
        if failure is not None:
            self._has_failed = True
            raise failure
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    @property
    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            self.open()
        assert self._opened is not None
        return self._opened

    def save(
        self,
        step: int,
        state: TrainState,
        data: dict[str, Any],
        config: dict[str, Any],
        row: Mapping[str, float] | None = None,
    ) -> None:
        """Start saving; the arrays are copied to the host before this returns.

        `row` is this step's row of the log, by whose metric the best checkpoint is chosen.
        """
        manager, saved_row = self._manager, to_json_row(row or {})
        # an error of the previous save would otherwise be reported as this one's
        self.wait()
        self._require_metric(step, saved_row)
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(make_state_item(state)),
            "data": ocp.args.JsonSave(data),
            "config": ocp.args.JsonSave(config),
            ROW_ITEM: ocp.args.JsonSave(saved_row),
        }
        # on the devices, of the arrays themselves: what the disk gets wrong is then found
        sums = {"state": compute_checksums(make_state_item(state))}
        if state.ema is not None:
            items[EMA_ITEM] = ocp.args.StandardSave(state.ema)
            sums[EMA_ITEM] = compute_checksums(state.ema)
        items[CHECKSUMS_ITEM] = ocp.args.JsonSave(sums)
        try:
            self._saving = step
            # force: the loop decides when to save, not Orbax's interval
            manager.save(step, args=ocp.args.Composite(**items), metrics=saved_row, force=True)
        except Exception as error:
            made = make_save_error(self.folder, step, error)
            raise made from made.__cause__

    def _require_metric(self, step: int, row: Mapping[str, Any]) -> None:
        best_of = self._keep.best_of
        if best_of and best_of not in row:
            if best_of not in self._metrics:
                raise make_unknown_name_error(
                    "metric in config.checkpoint.keep_best_of", best_of, row
                )
            log.warning(
                "checkpoint %d has no metric %r, so it cannot be kept as the best", step, best_of
            )
        self._metrics |= row.keys()

    def raise_if_failed(self) -> None:
        """Raise if the last save has failed by now, without waiting for it."""
        if self._saving is None:
            return
        if self._has_failed or not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is on disk; raise if it failed."""
        if self._opened is None or self._saving is None:
            return
        # cleared first: `close` calls this again while an error of this save propagates
        step, self._saving = self._saving, None
        try:
            self._opened.wait_until_finished()
            self._opened.check_for_errors()
        except Exception as error:
            made = make_save_error(self.folder, step, error)
            raise made from made.__cause__

    def close(self) -> None:
        """Finish the save in progress and release the threads."""
        try:
            self.wait()
        finally:
            join_save_threads()
        # after a failed save Orbax's close would wait at the barrier that others never reach
        if self._opened is not None and not self._has_failed:
            self._opened.close()

    def _make_unusable_error(self, error: Exception) -> OmfaError:
        return OmfaError(f"cannot keep checkpoints in {self.folder}: {error}; change --workdir")
