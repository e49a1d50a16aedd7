"""Load weights from a workdir's checkpoints, for sampling, export and new runs."""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.train.checkpoints.checkpointer import MODEL_FOLDER
from omfa_jax.train.checkpoints.checksums import Record, flatten_names, is_altered
from omfa_jax.train.checkpoints.integrity import (
    EMA_ITEM,
    DamagedCheckpointError,
    describe_missing,
    list_missing,
    list_steps,
    read_items,
)
from omfa_jax.train.checkpoints.lazy_array import make_lazy_tree
from omfa_jax.train.checkpoints.restore import read_checksums, read_metadata, read_tree
from omfa_jax.weights.model_folder import describe_model, load_model_folder
from omfa_jax.weights.omfa_model import Model

log = logging.getLogger(__name__)

RunResult = TypeVar("RunResult")


def restore_params(path: str | os.PathLike, *, ema: bool = True) -> tuple[dict[str, Any], int]:
    """Return (UNet parameters as numpy arrays, step) of a workdir or of one step's folder.

    With `ema`, the EMA is preferred if there is one. In a workdir the newest readable step is
    used; skipped ones are logged.
    """

    def read(item: AnyPath, prefix: trees.KeyPath) -> tuple[dict[str, Any], int]:
        tree = read_as_numpy(item, read_checksums(item.parent).get(item.name, {}))
        for name in prefix:
            tree = tree[name]
        return tree, int(item.parent.name)

    return read_newest(path, read, ema=ema)


def read_newest(
    path: str | os.PathLike, read: Callable[[AnyPath, trees.KeyPath], RunResult], *, ema: bool
) -> RunResult:
    """Return `read(item folder, path within the item)` for the item with the UNet parameters.

    `path` is a workdir or one step's folder. If `read` raises DamagedCheckpointError, the workdir's
    previous step is tried. Nothing on disk is changed, since the run may still be training.
    """
    path = to_path(path).absolute()
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path.parent
    there = [int(path.name)] if is_step_folder(path) else list_steps(folder)
    # newest first; a later one may turn out to be damaged only when its arrays are read
    steps = list_readable_steps(folder, there)
    if not steps:
        raise OmfaError(
            f"no complete checkpoint in {path}; give a training workdir or one of its steps"
        )
    damage: list[DamagedCheckpointError] = []
    for step in steps:
        try:
            made = read(*find_params_item(folder / str(step), ema=ema))
        except DamagedCheckpointError as error:
            damage.append(error)
            if step != steps[-1]:
                log.warning("%s; trying the previous one", error)
            continue
        if step != there[0]:
            log.warning("%s: using step %d, the newest readable one", path, step)
        return made
    raise DamagedCheckpointError("; ".join(map(str, damage))) from damage[0]


def list_readable_steps(folder: AnyPath, steps: list[int]) -> list[int]:
    """Return the complete steps; if there are none, those that lack only their EMA.

    Skipped steps are logged.
    """
    missing = {step: list_missing(folder / str(step)) for step in steps}
    found = [step for step in steps if not missing[step]]
    if not found:
        found = [step for step in steps if missing[step] == [EMA_ITEM]]
        for step in found:
            log.warning("checkpoint %s has lost its EMA: only its raw weights are left", step)
    # only those newer than the one that will be used are worth a warning
    for step in steps[: steps.index(found[0])] if found else ():
        log.warning("%s; trying the previous one", describe_missing(folder / str(step)))
    return found


def find_params_item(step_folder: AnyPath, *, ema: bool) -> tuple[AnyPath, trees.KeyPath]:
    """Return (folder of the saved item with the UNet parameters, their path within it)."""
    # the EMA is an item of its own, so that exports and samplers read it without the moments
    if ema and (step_folder / EMA_ITEM).is_dir():
        return step_folder / EMA_ITEM, ()
    return step_folder / "state", ("params",)


def is_step_folder(path: AnyPath) -> bool:
    """Return whether `path` is one step's folder; a workdir's name may be a number too."""
    return path.name.isdigit() and not (path / "checkpoints").is_dir()


def read_as_numpy(folder: AnyPath, record: Record) -> dict[str, Any]:
    """Read a saved tree onto the host, whatever its sharding was, and verify its checksums."""
    # the CPU device: the weights need not fit on an accelerator, nor on one of them
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        read_metadata(folder),
    )
    tree = jax.tree.map(jax.device_get, read_tree(folder, template))
    for name, leaf in flatten_names(tree).items():
        if is_altered(leaf, record.get(name)):
            raise DamagedCheckpointError(
                f"checkpoint {folder} is damaged: {name} differs from what was saved"
            )
    return tree


def load_export_arguments(path: str | os.PathLike, which: str = "auto") -> dict[str, Any]:
    """Return the keyword arguments of `save_diffusers` for a workdir or one of its steps.

    `which` is "ema" (an OmfaError if there is none), "raw", or "auto": the EMA if there is one.
    `origin` records the step and which of the two was taken. The UNet's parameters are read from
    disk only when used.
    """
    return export_newest(path, which, lambda arguments: arguments)


def export_newest(
    path: str | os.PathLike, which: str, save: Callable[[dict[str, Any]], RunResult]
) -> RunResult:
    """Call `save` with what `load_export_arguments` returns, and return its result.

    Damage may be found only when `save` reads the arrays; it is then called again with the
    workdir's previous step.
    """

    def read(item: AnyPath, prefix: trees.KeyPath) -> RunResult:
        return save(_arguments(to_path(path), which, item, prefix))

    return read_newest(path, read, ema=which != "raw")


def _arguments(path: AnyPath, which: str, item: AnyPath, prefix: trees.KeyPath) -> dict[str, Any]:
    step = int(item.parent.name)
    weights = "ema" if item.name == EMA_ITEM else "raw"
    if which == "ema" and weights == "raw":
        lost = EMA_ITEM in (read_items(item.parent) or ())
        why = "it has lost it" if lost else "it was trained with train.ema_decay=0"
        raise OmfaError(f"checkpoint {step} of {path} has no EMA ({why}); give --weights raw")
    model = load_model_folder(find_workdir(path) / MODEL_FOLDER)
    if model.settings.reference:
        raise OmfaError(
            f"{path} holds a reference UNet (config.model.reference=True), which has no form in"
            " diffusers: sample it with `omfa sample`; only single UNets are exported"
        )
    description = describe_model(model)
    return {
        "unet_config": description.unet_config,
        "unet_params": make_lazy_tree(
            item, read_metadata(item), prefix, read_checksums(item.parent).get(item.name, {})
        ),
        "vae_config": description.vae_config,
        "vae_params": model.vae_params,
        "scheduler": description.scheduler,
        "omfa": description.omfa,
        "prompts": description.prompts,
        "origin": {"step": step, "weights": weights},
    }


def load_checkpoint_model(path: str | os.PathLike, *, ema: bool = True) -> tuple[Model, int]:
    """Return (complete model, step) of a training workdir or of one step's folder."""
    params, step = restore_params(path, ema=ema)
    return load_model_folder(find_workdir(path) / MODEL_FOLDER).with_unet(params), step


def find_workdir(path: str | os.PathLike) -> AnyPath:
    """Return the workdir that `path` is, or that holds the step `path`."""
    path = to_path(path).absolute()
    return path.parent.parent if is_step_folder(path) else path
