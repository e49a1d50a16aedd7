"""Weights out of a workdir's checkpoints, for sampling, for export and for new runs."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoint import (
    EMA_ITEM,
    MODEL_FOLDER,
    first_line,
    missing_of,
    newest_whole_step,
    saved_tree,
)
from omfa_jax.train.stored import stored_tree
from omfa_jax.weights.bundle import Bundle
from omfa_jax.weights.frozen import describe, load_frozen


def restore_params(path: str | Path, *, ema: bool = True) -> tuple[dict[str, Any], int]:
    """Return (UNet parameters as numpy arrays, step) of a workdir or of one step's folder.

    The EMA is preferred where there is one and `ema` asks for it.
    """
    item, prefix, step = params_item(path, ema=ema)
    tree = as_numpy(item)
    for name in prefix:
        tree = tree[name]
    return tree, step


def params_item(path: str | Path, *, ema: bool) -> tuple[Path, tuple[str, ...], int]:
    """Return (folder of the saved item that holds UNet parameters, where in it, step)."""
    path = Path(path).absolute()
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path.parent
    step = int(path.name) if is_step(path) else newest_whole_step(folder)
    if step is None or missing_of(folder / str(step)):
        raise OmfaError(f"no whole checkpoint in {path}; give a training workdir or one step of it")
    step_folder = folder / str(step)
    if ema and (step_folder / EMA_ITEM).is_dir():
        return step_folder / EMA_ITEM, (), step
    return step_folder / "state", ("params",), step


def is_step(path: Path) -> bool:
    """Tell one step's folder from a workdir, whose name may be a number too."""
    return path.name.isdigit() and not (path / "checkpoints").is_dir()


def as_numpy(folder: Path) -> dict[str, Any]:
    """Read a saved tree onto the host, whatever devices it was saved from."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        saved_tree(folder),
    )
    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            tree = reader.restore(epath.Path(folder), args=ocp.args.StandardRestore(template))
    except Exception as error:
        raise OmfaError(f"checkpoint {folder} is damaged: {first_line(error)}") from error
    return jax.tree.map(jax.device_get, tree)


def load_for_export(path: str | Path, which: str = "auto") -> dict[str, Any]:
    """Return the keyword arguments of `save_diffusers` for a workdir or one of its steps.

    `which` is "ema" (an OmfaError where there is none), "raw", or "auto": the EMA if there is one.
    `origin` says which step and which of the two it became. The UNet's parameters stay on disk
    until they are asked for.
    """
    item, prefix, step = params_item(path, ema=which != "raw")
    weights = "ema" if item.name == EMA_ITEM else "raw"
    if which == "ema" and weights == "raw":
        raise OmfaError(
            f"checkpoint {step} of {path} has no EMA (it was trained with train.ema_decay=0);"
            " give --weights raw"
        )
    bundle = load_frozen(workdir_of(path) / MODEL_FOLDER)
    if bundle.settings.reference:
        raise OmfaError(
            f"{path} holds a dual UNet (config.model.reference=True), which has no form in"
            " diffusers: sample it with `omfa sample`; only single UNets are exported"
        )
    description = describe(bundle)
    return {
        "unet_config": description.unet_config,
        "unet_params": stored_tree(item, saved_tree(item), prefix),
        "vae_config": description.vae_config,
        "vae_params": bundle.vae_params,
        "scheduler": description.scheduler,
        "omfa": description.omfa,
        "prompts": description.prompts,
        "origin": {"step": step, "weights": weights},
    }


def load_bundle(path: str | Path, *, ema: bool = True) -> tuple[Bundle, int]:
    """Return (whole model, step) of a training workdir or of one step's folder."""
    params, step = restore_params(path, ema=ema)
    return load_frozen(workdir_of(path) / MODEL_FOLDER).with_unet(params), step


def workdir_of(path: str | Path) -> Path:
    """Return the workdir of a workdir or of one step's folder in it."""
    path = Path(path).absolute()
    return path.parent.parent if is_step(path) else path
