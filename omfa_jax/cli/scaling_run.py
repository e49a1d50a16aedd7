"""`omfa scaling run`: run a study on this machine, or a single run from a launch script."""

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from omfa_jax.cli.flags import WORKERS_TYPE, int_between, parse_any_path_text
from omfa_jax.core.atomic_files import LOCK_NAME, exclusive_lock, is_locked
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import NO_RESTART, classify_error
from omfa_jax.core.paths import AnyPath, RemotePath, local_copy, to_path
from omfa_jax.studies.run_results import (
    clear_failure,
    get_run_state,
    read_failure,
    read_result,
    write_failure,
    write_result,
)
from omfa_jax.studies.study_manifest import StudyRun, read_study
from omfa_jax.studies.study_runner import StudyRunner, apply_core_share, terminate_with_runner

if TYPE_CHECKING:
    from omfa_jax.cli.config_lib import Config

log = logging.getLogger(__name__)

# with --only and --index it may be one of several processes, which exit together
JOINS = True
HELP = "train the unfinished runs of a study; the same command resumes"
COMMAND = (sys.executable, "-m", "omfa_jax.cli.main", "scaling", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling run`."""
    parser.add_argument(
        "study",
        type=parse_any_path_text,
        metavar="STUDY",
        help="study folder (`omfa scaling plan --out`)",
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--only", default="", metavar="RUN", help="train only this run, in this process"
    )
    one.add_argument(
        "--index",
        type=int_between(),
        metavar="I",
        help="train only the run at this index, for array jobs",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="restart failed runs from their last checkpoint"
    )
    parser.add_argument(
        "--parallel",
        type=WORKERS_TYPE,
        default=1,
        metavar="N",
        help="parallel runs, each on a share of the cores and GPUs",
    )


def run(options: argparse.Namespace) -> None:
    """Train the unfinished runs; failed runs raise an OmfaError after all others are done."""
    folder = to_path(options.study)
    if isinstance(folder, RemotePath) and folder.scheme != "gs":
        # said now, and not by each run
        raise OmfaError(
            f"{folder}: checkpoints cannot be on {folder.scheme}:// (docs/checkpoints.md);"
            " plan the study on a disk or on gs://"
        )
    study = read_study(folder)
    folder = folder.absolute()
    if options.index is not None:
        if not 0 <= options.index < len(study.runs):
            last = len(study.runs) - 1
            raise OmfaError(
                f"--index: expected 0..{last}, the runs of the study, got {options.index}"
            )
        options.only = study.runs[options.index].name
    if options.only:
        # before JAX is imported, which sizes its thread pools by the cores of the process
        terminate_with_runner()
        apply_core_share()
        if options.parallel != 1:
            raise OmfaError(
                "--parallel does not apply to a single run; remove it, or --only and --index"
            )
        run_one(folder, study.get_run(options.only), retry_failed=options.retry_failed)
        return
    refusal = f"another run is using {folder}: stop it, or give another folder to STUDY"
    with exclusive_lock(folder / LOCK_NAME, refusal):
        runner = StudyRunner(folder, study, COMMAND)
        runner.run(retry_failed=options.retry_failed, parallel=options.parallel)


def run_one(folder: AnyPath, run: StudyRun, *, retry_failed: bool) -> None:
    """Train one run, measure its held-out loss and write its result, unless it is finished.

    A permanent error is recorded in the workdir and raised. A failed run raises its error again
    unless `retry_failed`.
    """
    state = get_run_state(folder, run)
    if state == "finished":
        # only to raise if the result is damaged
        read_result(folder, run)
        log.info("%s is finished", run.name)
        return
    if state == "failed":
        if not retry_failed:
            why = read_failure(folder, run)
            raise OmfaError(f"{run.name} has failed: {why}; restart it with --retry-failed")
        clear_failure(folder, run)
    from omfa_jax.cli import config_lib, train
    from omfa_jax.evals.heldout_run import find_heldout_split

    workdir = folder / run.workdir
    try:
        with local_copy(folder / run.config) as config_file:
            config = config_lib.load_config(config_file, [])
            # fail now, not after training, if there is no split for the held-out loss
            find_heldout_split(config_lib.make_pipeline_settings(config).records, config.eval.split)
            # all flags of `omfa train`, which reads them as attributes
            options = argparse.Namespace(
                config=config_file,
                overrides=[],
                workdir=str(workdir),
                explain_sharding=False,
                print_config=False,
                profile="",
            )
            train.run(options)
            losses = measure_heldout_losses(config, workdir)
    except Exception as error:
        # other errors are temporary: the run stays resumable
        if classify_error(error).status == NO_RESTART:
            record_failure(folder, run, str(error) or type(error).__name__)
        raise
    if is_main_process():
        write_result(folder, run, losses)
    log.info("%s: held-out loss %.5f", run.name, losses["loss"])


def record_failure(folder: AnyPath, run: StudyRun, reason: str) -> None:
    """Record the failure of a run, from any of its processes; if that fails, log a warning."""
    workdir = folder / run.workdir
    # the main process has released the folder by now, so a lock belongs to another run
    if not workdir.is_dir() or (is_main_process() and is_locked(workdir)):
        return
    try:
        write_failure(folder, run, NO_RESTART, reason)
    except OmfaError as error:
        log.warning("%s could not be marked as failed: %s", run.name, error)


def is_main_process() -> bool:
    """Return whether this is the process that writes."""
    import jax

    return jax.process_index() == 0


def measure_heldout_losses(config: "Config", workdir: AnyPath) -> dict[str, float]:
    """Return the held-out losses of the workdir's last checkpoint (its EMA, if it has one).

    Examples, noise levels and seed are those of config.eval. Every process must call it.
    """
    from omfa_jax.cli import config_lib
    from omfa_jax.evals.heldout_loss import HeldOutSettings
    from omfa_jax.evals.heldout_run import find_heldout_split, measure_model_loss
    from omfa_jax.train.checkpoints.checkpoint_weights import load_checkpoint_model
    from omfa_jax.train.meshes import make_network_mesh
    from omfa_jax.weights.vae_fingerprint import fingerprint_vae

    model, _ = load_checkpoint_model(workdir)
    vae_id = fingerprint_vae(model.vae_config, model.vae_params)
    pipeline = config_lib.make_pipeline_settings(config, vae_id=vae_id)
    loss = measure_model_loss(
        model,
        pipeline,
        find_heldout_split(pipeline.records, config.eval.split),
        HeldOutSettings(config.eval.loss_examples, config.eval.loss_timesteps, config.eval.seed),
        make_network_mesh(config_lib.make_mesh_settings(config), model),
        dtype=config.train.compute_dtype,
        attention=config.train.attention,
    )
    return {**loss.to_scalars(), "standard_error": loss.standard_error}
