"""`omfa scaling run`: a study's runs on this machine, or one of them for a cluster's launcher."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omfa_jax.cli.flags import WORKERS, path_text, whole
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.exit_status import NO_RESTART, row_of
from omfa_jax.core.files import LOCK, exclusive_lock, is_used
from omfa_jax.scaling.manifest import StudyRun, read_manifest
from omfa_jax.scaling.results import (
    failure_of,
    forget_failure,
    read_result,
    state_of,
    write_failure,
    write_result,
)
from omfa_jax.scaling.runner import Runner, end_with_runner, keep_to_share

if TYPE_CHECKING:
    from omfa_jax.cli.config import Config

log = logging.getLogger(__name__)

# with --only and --index it may be one process of several, which end together
JOINS = True
HELP = "train what is not finished yet; the same command goes on after a kill"
COMMAND = (sys.executable, "-m", "omfa_jax.cli.main", "scaling", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling run`."""
    parser.add_argument(
        "study", type=path_text, metavar="STUDY", help="the folder of `omfa scaling plan --out`"
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--only", default="", metavar="RUN", help="this run, in this process")
    one.add_argument(
        "--index", type=whole(), metavar="I", help="the run of that place (an array task)"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="start failed runs again, from their last save"
    )
    parser.add_argument(
        "--parallel",
        type=WORKERS,
        default=1,
        metavar="N",
        help="so many runs at a time, each on its share of the cores and GPUs (1)",
    )


def run(options: argparse.Namespace) -> None:
    """Run what is left of the study; a failed run is an OmfaError at the end, after all others."""
    folder = Path(options.study)
    study = read_manifest(folder)
    folder = folder.absolute()
    if options.index is not None:
        if not 0 <= options.index < len(study.runs):
            last = len(study.runs) - 1
            raise OmfaError(f"--index: expected 0..{last}, the study's runs; got {options.index}")
        options.only = study.runs[options.index].name
    if options.only:
        end_with_runner()
        keep_to_share()
        if options.parallel != 1:
            raise OmfaError("--parallel is of the whole study's runner; leave it out with --only")
        run_one(folder, study.run(options.only), retry_failed=options.retry_failed)
        return
    refusal = f"another run is using {folder}: stop it, or give another folder to STUDY"
    with exclusive_lock(folder / LOCK, refusal):
        runner = Runner(folder, study, COMMAND)
        runner.run(retry_failed=options.retry_failed, parallel=options.parallel)


def run_one(folder: Path, run: StudyRun, *, retry_failed: bool) -> None:
    """Train one run to its end, measure it, and write its result; a finished one is left alone.

    An error that no restart mends is written beside the run and raised; so is that of a failed run,
    unless it is to be tried again.
    """
    state = state_of(folder, run)
    if state == "finished":
        read_result(folder, run)
        log.info("%s is finished", run.name)
        return
    if state == "failed":
        if not retry_failed:
            why = failure_of(folder, run)
            raise OmfaError(f"{run.name} has failed: {why}; --retry-failed starts it again")
        forget_failure(folder, run)
    from omfa_jax.cli import config as border
    from omfa_jax.cli import train
    from omfa_jax.cli.evaluation import held_out_split

    workdir, config_file = folder / run.workdir, folder / run.config
    try:
        config = border.load_config(config_file, [])
        # what the end will need is missed at the beginning
        held_out_split(border.pipeline_settings(config).records, config.eval.split)
        options = argparse.Namespace(
            config=config_file,
            overrides=[],
            workdir=str(workdir),
            explain_sharding=False,
            profile="",
        )
        train.run(options)
        losses = heldout_losses(config, workdir)
    except Exception as error:
        # what a restart may mend is begun again
        if row_of(error).status == NO_RESTART:
            note_failure(folder, run, str(error) or type(error).__name__)
        raise
    if main_process():
        write_result(folder, run, losses)
    log.info("%s: held-out loss %.5f", run.name, losses["loss"])


def note_failure(folder: Path, run: StudyRun, reason: str) -> None:
    """Write why a run failed, from whichever of its processes it did; a full disk is only said."""
    workdir = folder / run.workdir
    # the main process has let go of the folder: who holds it is another run
    if not workdir.is_dir() or (main_process() and is_used(workdir)):
        return
    try:
        write_failure(folder, run, NO_RESTART, reason)
    except OmfaError as error:
        log.warning("%s is not marked as failed: %s", run.name, error)


def main_process() -> bool:
    """True on the process that writes."""
    import jax

    return jax.process_index() == 0


def heldout_losses(config: "Config", workdir: Path) -> dict[str, float]:
    """Return the held-out losses of the workdir's last checkpoint (its EMA, if it has one).

    The examples, noise levels and seed are config.eval's. Every process of the job calls it.
    """
    from omfa_jax.cli import config as border
    from omfa_jax.cli.evaluation import held_out_loss, held_out_split
    from omfa_jax.cli.sharding import network_mesh
    from omfa_jax.cli.startup import vae_fingerprint
    from omfa_jax.evals.heldout import HeldOutSettings
    from omfa_jax.parallel.feed import place
    from omfa_jax.parallel.rules import UNET_RULES, param_shardings
    from omfa_jax.train.load import load_bundle
    from omfa_jax.train.network import network_shapes

    bundle, _ = load_bundle(workdir)
    vae_id = vae_fingerprint(bundle.vae_config, bundle.vae_params)
    pipeline = border.pipeline_settings(config, vae_id=vae_id)
    mesh = network_mesh(config, bundle)
    shardings = param_shardings(
        UNET_RULES, network_shapes(bundle.settings, bundle.unet_config), mesh
    )
    measured = held_out_loss(
        bundle,
        pipeline,
        held_out_split(pipeline.records, config.eval.split),
        HeldOutSettings(config.eval.loss_examples, config.eval.loss_timesteps, config.eval.seed),
        mesh,
        shardings,
        dtype=config.train.compute_dtype,
        attention=config.train.attention,
    )(place(bundle.unet_params, shardings))
    return {**measured.scalars(), "standard_error": measured.standard_error}
