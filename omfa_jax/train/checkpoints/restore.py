"""Read one checkpoint into a training state, and check that it fits and is undamaged."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.pipeline.iterator_state import get_batches_consumed
from omfa_jax.train.checkpoints.checksums import (
    Record,
    find_altered,
    flatten_names,
    get_recorded_shapes,
    is_record,
)
from omfa_jax.train.checkpoints.integrity import (
    EMA_ITEM,
    DamagedCheckpointError,
    convert_error,
    read_config,
    read_items,
    read_json,
)
from omfa_jax.train.checkpoints.orbax_paths import to_orbax
from omfa_jax.train.state import TrainState

log = logging.getLogger(__name__)

# the checksums of the saved arrays
CHECKSUMS_ITEM = "checksums"

Shapes = dict[str, tuple[int, ...]]


def read_step(folder: AnyPath, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Return (state sharded like `abstract`, data position) of one step's folder.

    Every process reads its own shards, without waiting for others. Raises DamagedCheckpointError,
    an OmfaError if the checkpoint is intact but of another model, or an OSError.
    """
    step, config = int(folder.name), read_config(folder)
    position = read_json(folder, "data")
    require_position(position, step, folder)
    record = read_checksums(folder)
    template = make_state_item(abstract)
    require_matching_model(folder, config, template, record.get("state"))
    # before any array is read: these errors should not take minutes of reading
    has_ema = (folder / EMA_ITEM).is_dir()
    if abstract.ema is not None and not has_ema:
        raise make_missing_ema_error(folder, config)
    if abstract.ema is None and has_ema:
        log.warning("the EMA of checkpoint %s is dropped: train.ema_decay=0 now", folder)
    state = read_tree(folder / "state", template)
    ema = None
    if abstract.ema is not None:
        # the parameters fit, so an EMA of other shapes is damage and not another model's
        require_shapes(folder / EMA_ITEM, abstract.ema)
        ema = read_tree(folder / EMA_ITEM, abstract.ema)
    # a renamed folder would shift the data position against the state
    if int(state["step"]) != step:
        raise DamagedCheckpointError(
            f"checkpoint {folder / 'state'} is damaged: it holds step {state['step']}"
        )
    return TrainState(state["step"], state["params"], ema, state["opt_state"]), position


def verify_checksums(
    folder: AnyPath, read: tuple[TrainState, dict[str, Any]]
) -> tuple[TrainState, dict[str, Any]]:
    """Return `read`, or raise DamagedCheckpointError if an array differs from what was saved.

    A collective call: only after every process has read its shards.
    """
    record = read_checksums(folder)
    state = read[0]
    trees = {"state": make_state_item(state)} | ({} if state.ema is None else {EMA_ITEM: state.ema})
    for item, tree in trees.items():
        name = find_altered(tree, record.get(item, {}))
        if name is not None:
            raise DamagedCheckpointError(
                f"checkpoint {folder / item} is damaged: {name} differs from what was saved"
            )
    return read


def make_state_item(state: TrainState) -> dict[str, Any]:
    """Return the contents of the `state` item (the EMA is an item of its own)."""
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def require_position(position: Any, step: int, folder: AnyPath) -> None:
    """Raise DamagedCheckpointError unless the data position is `step` batches, one per update."""
    try:
        consumed = get_batches_consumed(position)
    except OmfaError as error:
        raise DamagedCheckpointError(f"checkpoint {folder / 'data'} is damaged: {error}") from None
    if consumed != step:
        raise DamagedCheckpointError(
            f"checkpoint {folder / 'data'} is damaged: its data position is {consumed} batches, not"
            f" {step}"
        )


def read_checksums(folder: AnyPath) -> dict[str, Record]:
    """Return {item: record} of a checkpoint; empty for one written before checksums existed."""
    if not (folder / CHECKSUMS_ITEM).is_dir():
        return {}
    found = read_json(folder, CHECKSUMS_ITEM)
    if not all(map(is_record, found.values())):
        raise DamagedCheckpointError(
            f"checkpoint {folder / CHECKSUMS_ITEM} is damaged: expected sums, shapes, dtypes"
        )
    return found


def require_matching_model(
    folder: AnyPath, config: dict[str, Any], template: Any, record: Record | None
) -> None:
    """Raise an OmfaError if an intact checkpoint is of another model or optimizer.

    If the files disagree with the checkpoint's own record, it is damaged.
    """
    # before Orbax's own check, whose error names no setting to change
    saved = get_shapes(read_metadata(folder / "state"))
    recorded = saved if record is None else get_recorded_shapes(record)
    difference = describe_first_difference(recorded, get_shapes(template))
    if difference and recorded != saved:
        # the files match neither the config nor their own record, so no other config would help
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {CHECKSUMS_ITEM} are not those of its arrays"
        )
    if difference:
        preset = get_section(config, "model").get("unet")
        raise OmfaError(
            f"checkpoint {folder.name} in {folder.parent} (model.unet={preset!r}) does not fit this"
            " config's model or optimizer; use the config it was trained with or a new"
            f" --workdir. First difference: {difference}"
        )
    require_shapes(folder / "state", template)


def require_shapes(folder: AnyPath, template: Any) -> None:
    """Raise DamagedCheckpointError if saved arrays differ from `template` in name or shape."""
    difference = describe_first_difference(get_shapes(read_metadata(folder)), get_shapes(template))
    if difference:
        raise DamagedCheckpointError(f"checkpoint {folder} is damaged: {difference}")


def make_missing_ema_error(folder: AnyPath, config: Mapping[str, Any]) -> OmfaError:
    """Return the error for a checkpoint without an EMA: it lost it, or never had one."""
    decay = get_section(config, "train").get("ema_decay")
    if decay or EMA_ITEM in (read_items(folder) or ()):
        return DamagedCheckpointError(
            f"checkpoint {folder} is damaged: it has lost its EMA (train.ema_decay={decay})"
        )
    return OmfaError(
        f"checkpoint {folder.name} in {folder.parent} has no EMA (it was trained with"
        " train.ema_decay=0); give --config.train.ema_decay=0 or a new --workdir"
    )


def get_section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a saved config, empty if there is none of that name."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def describe_first_difference(have: Shapes, want: Shapes) -> str | None:
    """Return a sentence about the first array whose name or shape differs, else None."""
    # parameters first: differences in the optimizer's moments follow from theirs
    for name in sorted(have.keys() | want.keys(), key=lambda n: (n.startswith("opt_state"), n)):
        if have.get(name) != want.get(name):
            here, there = have.get(name, "missing"), want.get(name, "missing")
            return f"{name} is {here} in the checkpoint, {there} in the config"
    return None


def get_shapes(tree: Any) -> Shapes:
    """Return {dotted name: shape} of every array of a tree."""
    return {name: tuple(leaf.shape) for name, leaf in flatten_names(tree).items()}


def read_metadata(folder: AnyPath) -> Any:
    """Return the metadata (shape, dtype) of every array of one saved item."""
    try:
        with tolerate_late_reads(), contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            return reader.metadata(to_orbax(folder)).tree
    except Exception as error:
        raise convert_error(error, folder) from error


def read_tree(folder: AnyPath, template: Any) -> Any:
    """Return a saved item's arrays, sharded like `template` (ShapeDtypeStructs)."""
    try:
        with tolerate_late_reads(), contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            return reader.restore(to_orbax(folder), args=ocp.args.StandardRestore(template))
    except Exception as error:
        raise convert_error(error, folder) from error


class _TolerantEventLoop(asyncio.SelectorEventLoop):
    """An event loop that cancels its tasks on close and ignores callbacks after that."""

    def close(self) -> None:
        left = [] if self.is_closed() else asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        with contextlib.suppress(RuntimeError):
            return super().call_soon_threadsafe(callback, *args, context=context)


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _TolerantEventLoop


@contextlib.contextmanager
def tolerate_late_reads() -> Iterator[None]:
    """Tolerate Orbax reads that finish after another read has failed.

    When one of many reads fails, Orbax closes its event loop while the others are pending. Each of
    them would then print a traceback, which would bury the one line with the error.
    """
    # Orbax calls asyncio.new_event_loop, which asks the policy
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


def make_restore_template(abstract: TrainState, shardings: TrainState) -> TrainState:
    """Return ShapeDtypeStructs with shardings, the template of a sharded restore."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
