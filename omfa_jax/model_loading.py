"""Load a model from a training run or from an imported or exported folder."""

import logging
import os
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.train.checkpoints.checkpoint_weights import find_workdir, load_checkpoint_model
from omfa_jax.train.checkpoints.checkpointer import MODEL_FOLDER
from omfa_jax.weights.imported_folder import load_weights, require_finished
from omfa_jax.weights.model_description import read_description
from omfa_jax.weights.model_folder import make_model, require_omfa
from omfa_jax.weights.omfa_model import Model

log = logging.getLogger(__name__)

# the name and the place of the small model that comes with the package
TINY, TINY_FOLDER = "tiny", Path(__file__).parent / "assets" / "tiny"
EXPECTED = (
    "expected a training workdir, one of its steps (WORKDIR/checkpoints/STEP), a folder written by"
    f" convert_weights.py import or export (--checkpoint of the command line), or {TINY}, the small"
    " model of the package"
)


def load_model(path: str | os.PathLike, *, ema: bool = True) -> Model:
    """Return the model at `path`, with parameters as float32 numpy arrays on the host.

    `path` is one of:

    - a training workdir: its newest readable checkpoint; a damaged one is skipped with a warning
    - one step of a workdir, `WORKDIR/checkpoints/STEP`
    - an imported folder whose source was an exported folder (`convert_weights.py import`)
    - an exported folder (`convert_weights.py export`), or a diffusers folder with `omfa.json` and
      `prompts.safetensors`
    - `tiny`, if no folder has that name: the small model of the package

    Folders may be in object storage: on gs://, and except for training runs on s3://. What is read
    of them is downloaded to TMPDIR first.

    A checkpoint may hold two sets of UNet weights: their exponential moving average (EMA), taken
    with `ema` if there is one, and the trained weights. Other folders hold one set, whatever `ema`
    says. Arrays are checked against the checksums stored with them. Float32 arrays of an imported
    folder are memory maps of its files.

    `model.settings.slots_px` holds the (height, width) in pixels of the garment, person and face
    images that the model takes and generates.

    Raises OmfaError if `path` is none of these, is damaged, or lacks the prompts or the settings of
    an OMFA model, as SDXL does, imported or not, until it has been trained.

        >>> import omfa_jax as omfa
        >>> model = omfa.load_model("runs/vitonhd")
        >>> model.settings.slots_px[1]
        (1024, 768)
    """
    folder = find_model_folder(path)
    if is_checkpoint(folder):
        model, step = load_checkpoint_model(folder, ema=ema)
        log.info("%s: step %d", path, step)
        return model
    require_model_folder(folder, path)
    weights = load_weights(folder)
    return make_model(weights, weights.unet_params, weights.vae_params, str(path))


def read_settings(path: str | os.PathLike) -> DiffusionSettings:
    """Return the settings of the model that `load_model` would load, without reading its weights.

    Raises OmfaError as `load_model` does, except for damaged weights.
    """
    folder = find_model_folder(path)
    if is_checkpoint(folder):
        folder = find_workdir(folder) / MODEL_FOLDER
    require_model_folder(folder, path)
    settings, _ = require_omfa(read_description(folder), str(path))
    return settings


def find_model_folder(path: str | os.PathLike) -> AnyPath:
    """Return the absolute path of a model's folder, or of the small model for its name."""
    folder = to_path(path).absolute()
    return TINY_FOLDER if str(path) == TINY and not folder.exists() else folder


def is_checkpoint(folder: AnyPath) -> bool:
    """Return whether an absolute path is a training workdir or one of its steps."""
    # a step's folder is known by its parent's name, which a relative path need not show
    return (folder / "checkpoints").is_dir() or folder.parent.name == "checkpoints"


def require_model_folder(folder: AnyPath, path: str | os.PathLike) -> None:
    """Raise an OmfaError if `folder`, given as `path`, is not a model folder."""
    if not folder.is_dir():
        raise OmfaError(f"no model at {path}: {EXPECTED}")
    require_finished(folder)
    if not (folder / "unet").is_dir():
        raise OmfaError(f"{path} is not a model folder: {EXPECTED}")
