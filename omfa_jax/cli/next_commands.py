"""What `omfa train` says at its end: where things are, and what to do with them."""

import shlex
from collections.abc import Iterator

from omfa_jax.cli import config_lib
from omfa_jax.cli.eval_checkpoint_flags import TASK_SETTINGS
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.train.checkpoints.checkpointer import MODEL_FOLDER
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step

# a task of the command line -> the flags of the photos that a user gives
INPUTS = {
    "try_on": "--garment GARMENT.jpg --person PERSON.jpg",
    "try_off": "--person PERSON.jpg",
}


def format_end(config: config_lib.Config, workdir: AnyPath) -> list[str]:
    """Return lines on a finished run: its checkpoint, and commands to paste."""
    checkpoints = workdir / "checkpoints"
    step = find_newest_complete_step(checkpoints, warn=False)
    where = f"trained to step {step}: {workdir}, last checkpoint {checkpoints / str(step)}"
    if config.objective == "autoencoder":
        return [where, *_format_vae_commands(config, workdir / MODEL_FOLDER)]
    return [where, *(f"next: {command}" for command in _list_commands(config, workdir))]


def _format_vae_commands(config: config_lib.Config, model: AnyPath) -> Iterator[str]:
    yield (
        f"the VAE: {model}; train a UNet on it with --config.model.init={shlex.quote(str(model))}"
        " --config.model.init_unet=false"
    )


def _list_commands(config: config_lib.Config, workdir: AnyPath) -> Iterator[str]:
    folder = shlex.quote(str(workdir))
    trained = [name for name, row in config.tasks.items() if row.weight > 0]
    task = next((name for name in INPUTS if name in trained), None)
    if task is not None:
        out = shlex.quote(str(workdir / "sampled"))
        yield f"omfa sample --checkpoint {folder} --task {task} {INPUTS[task]} --out {out}"
    yield from _list_eval_commands(config, workdir, trained)
    out = shlex.quote(str(workdir / "exported"))
    yield f"python convert_weights.py export {folder} --out {out}"


def _list_eval_commands(
    config: config_lib.Config, workdir: AnyPath, trained: list[str]
) -> Iterator[str]:
    """Yield the evaluation of a split that the data has and training did not see, if any."""
    task = next((name for name in TASK_SETTINGS if name in trained), None)
    data = config.data.records or config_lib.make_pipeline_settings(config).records
    manifest = read_manifest(data)
    held_out = [name for name in ("test", "val") if name in manifest["splits"]]
    if not held_out:
        return
    # latents are enough for the loss, images are needed for scores
    what = f"--task {task}" if task and manifest["kind"] == "images" else "--loss"
    split = "" if held_out[0] == "test" else f" --split {held_out[0]}"
    yield (
        f"omfa eval --checkpoint {shlex.quote(str(workdir))} --data {shlex.quote(str(data))}"
        f"{split} {what} --out {shlex.quote(str(workdir / 'scores'))}"
    )
