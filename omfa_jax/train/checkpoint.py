"""Checkpoints: Orbax steps of {state, EMA, data position, config}, whole or not there.

Checkpoint N holds the state after N updates and the position after N batches.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import PreservationPolicy
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.train.settings import KeepSettings
from omfa_jax.train.state import TrainState

log = logging.getLogger(__name__)

ITEMS = ("state", "data", "config")
EMA_ITEM = "ema"
# Orbax writes it last
FINISHED = "_CHECKPOINT_METADATA"
# beside the checkpoints in a workdir: all of the model that training does not change
MODEL_FOLDER = "model"


class Checkpoints:
    """The checkpoints of one workdir; saves run in the background."""

    def __init__(self, workdir: str | Path, keep: KeepSettings):
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._best_of = keep.best_of
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preserved(keep),
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except (OSError, ValueError) as error:
            raise OmfaError(
                f"cannot keep checkpoints in {self.folder}: {error}; change --workdir"
            ) from None

    def latest(self) -> int | None:
        """Return the newest whole step; warn of any newer folder that is not whole.

        Of several processes the first decides: the others' view of a shared folder may be old.
        """
        found = newest_whole_step(self.folder)
        if jax.process_count() == 1:
            return found
        from jax.experimental import multihost_utils

        step = int(multihost_utils.broadcast_one_to_all(np.int64(-1 if found is None else found)))
        return None if step < 0 else step

    def save(
        self,
        step: int,
        state: TrainState,
        data: dict[str, Any],
        config: dict[str, Any],
        row: Mapping[str, float] | None = None,
    ) -> None:
        """Start saving; the arrays are copied to the host before this returns.

        `row` is the log's, of which the best checkpoint is chosen.
        """
        metrics = None
        if self._best_of:
            if self._best_of not in (row or {}):
                raise unknown("metric in config.checkpoint.keep_best_of", self._best_of, row or {})
            metrics = {self._best_of: float((row or {})[self._best_of])}
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(state_item(state)),
            "data": ocp.args.JsonSave(data),
            "config": ocp.args.JsonSave(config),
        }
        if state.ema is not None:
            items[EMA_ITEM] = ocp.args.StandardSave(state.ema)
        try:
            # a folder of this step that is not whole would make Orbax refuse the save
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)
        except Exception as error:
            raise self._failure(step, error) from error

    def wait(self) -> None:
        """Return when the last save is on disk; a save that failed raises here."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(None, error) from error

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return (state laid out as `abstract` says, data position) of `step`."""
        found = read_config(self.folder / str(step))
        template = state_item(abstract)
        wanted: dict[str, Any] = {
            "state": ocp.args.StandardRestore(template),
            "data": ocp.args.JsonRestore(),
        }
        if abstract.ema is not None:
            if not (self.folder / str(step) / EMA_ITEM).is_dir():
                raise OmfaError(
                    f"checkpoint {step} in {self.folder} has no EMA (it was trained with"
                    " train.ema_decay=0); give --config.train.ema_decay=0 or a new --workdir"
                )
            wanted[EMA_ITEM] = ocp.args.StandardRestore(abstract.ema)
        difference = first_difference(self.folder / str(step) / "state", template)
        if difference:
            preset = found.get("model", {}).get("unet")
            raise OmfaError(
                f"checkpoint {step} in {self.folder} (model.unet={preset!r}) does not fit this"
                " config's model or optimizer; use the config it was trained with or a new"
                f" --workdir. First difference: {difference}"
            )
        try:
            items = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        except Exception as error:
            raise OmfaError(
                f"checkpoint {step} in {self.folder} is damaged: {first_line(error)}; delete that"
                " folder to go on from the step before"
            ) from error
        state = items["state"]
        ema = items[EMA_ITEM] if abstract.ema is not None else None
        return TrainState(state["step"], state["params"], ema, state["opt_state"]), items["data"]

    def close(self) -> None:
        """Finish the running save and release the threads."""
        self.wait()
        self._manager.close()

    def _failure(self, step: int | None, error: Exception) -> OmfaError:
        whole = newest_whole_step(self.folder, warn=False)
        what = "a checkpoint" if step is None else f"checkpoint {step}"
        kept = "none is whole" if whole is None else f"the last whole one is step {whole}"
        free = shutil.disk_usage(self.folder).free / 1e6
        return OmfaError(
            f"could not save {what} in {self.folder}, where {free:.0f} MB are free: {kept}; make"
            f" room or change --workdir ({first_line(error)})"
        )


def preserved(keep: KeepSettings) -> PreservationPolicy:
    """Return Orbax's policy for the settings; a checkpoint stays if any part of it says so."""
    policies: list[PreservationPolicy] = [policy.LatestN(keep.last)]
    if keep.every_steps:
        policies.append(policy.EveryNSteps(keep.every_steps))
    if keep.best_of:
        # Orbax keeps the end of an ascending order
        policies.append(policy.BestN(get_metric_fn=lambda found: -found[keep.best_of], n=1))
    return policy.AnyPreservationPolicy(policies)


def state_item(state: TrainState) -> dict[str, Any]:
    """Return what the `state` item holds (the EMA is an item of its own)."""
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def abstract_like(abstract: TrainState, shardings: TrainState) -> TrainState:
    """Return ShapeDtypeStructs that carry shardings: the template of a sharded restore."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def newest_whole_step(folder: Path, *, warn: bool = True) -> int | None:
    """Return the newest step whose items are all there.

    On a local file system Orbax takes any folder with a number for a checkpoint, an empty one
    too; a step counts here only with its finishing metadata and every item.
    """
    steps = sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)
    for step in steps:
        path = folder / str(step)
        missing = missing_of(path)
        if not missing:
            return step
        if warn:
            log.warning(
                "checkpoint %s is not whole (missing: %s); trying the one before",
                path,
                ", ".join(missing),
            )
    return None


def missing_of(step_folder: Path) -> list[str]:
    """Return what a step's folder lacks to be whole: its items, Orbax's finishing metadata."""
    missing = [item for item in ITEMS if not (step_folder / item).is_dir()]
    return missing + [mark for mark in (FINISHED,) if not (step_folder / mark).is_file()]


def read_config(step_folder: Path) -> dict[str, Any]:
    """Return the config saved in one step's folder, as plain types."""
    file = step_folder / "config" / "metadata"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise OmfaError(f"{step_folder} is not a whole checkpoint: {error}") from None


def first_difference(saved: Path, wanted: Any) -> str | None:
    """Name the first array that a saved tree and a template do not share in name and shape.

    Asked before Orbax reads anything: reads that it gives up on half-way outlive its event loop.
    """
    have, want = shapes(saved_tree(saved)), shapes(wanted)
    # the parameters first: what the moments differ in follows from them
    for name in sorted(have.keys() | want.keys(), key=lambda n: (n.startswith("opt_state"), n)):
        if have.get(name) != want.get(name):
            here, there = have.get(name, "missing"), want.get(name, "missing")
            return f"{name} is {here} in the checkpoint, {there} in the config"
    return None


def saved_tree(folder: Path) -> Any:
    """Return the metadata (shape, dtype) of every array of one saved item."""
    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            return reader.metadata(epath.Path(folder)).tree
    except Exception as error:
        raise OmfaError(f"checkpoint {folder} is damaged: {first_line(error)}") from error


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return {dotted name: shape} of every array, named as Orbax names them."""
    plain = ocp.tree.serialize_tree(tree, keep_empty_nodes=True)
    return {
        ".".join(path): tuple(leaf.shape)
        for path, leaf in ocp.tree.to_flat_dict(plain).items()
        if hasattr(leaf, "shape")
    }


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's text, its middle cut out, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # paths fill the middle; what happened stands at the ends
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:120]} ... {lines[0][-160:]}"
