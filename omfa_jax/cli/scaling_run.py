"""`omfa scaling run`: a study's runs on this machine, or one of them for a cluster's launcher."""

import argparse
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import is_used, only_user_of
from omfa_jax.scaling.manifest import Manifest, StudyRun, read_manifest
from omfa_jax.scaling.results import failure_of, read_result, state_of, write_failure, write_result

if TYPE_CHECKING:
    from omfa_jax.cli.config import Config

log = logging.getLogger(__name__)

HELP = "train what is not finished yet; the same command goes on after a kill"
LOG = "log.txt"
# for a run whose runner was killed: it saves and ends
WAIT_SECONDS = 120
PR_SET_PDEATHSIG = 1
# the runner's process, in the environment of its run
RUNNER = "OMFA_STUDY_RUNNER"
STARTS = {"planned": "starts", "begun": "goes on", "failed": "tried again"}
COMMAND = (sys.executable, "-m", "omfa_jax.cli.main", "scaling", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa scaling run`."""
    parser.add_argument("study", metavar="STUDY", help="the folder of `omfa scaling plan --out`")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--only", default="", metavar="RUN", help="this run, in this process")
    one.add_argument("--index", type=int, metavar="I", help="the run of that place (an array task)")
    parser.add_argument(
        "--retry-failed", action="store_true", help="start failed runs again, from their last save"
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
        run_one(folder, study.run(options.only))
        return
    with only_user_of(folder, flag="STUDY"):
        Runner(folder, study).run(retry_failed=options.retry_failed)


def run_one(folder: Path, run: StudyRun) -> None:
    """Train one run to its end, measure it, and write its result; a finished one is left alone.

    An error that no restart mends is written beside the run and raised.
    """
    if state_of(folder, run) == "finished":
        log.info("%s is finished", run.name)
        return
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
    except OmfaError as error:
        if main_process() and workdir.is_dir() and not is_used(workdir):
            write_failure(folder, run, 2, str(error))
        raise
    if main_process():
        write_result(folder, run, losses)
    log.info("%s: held-out loss %.5f", run.name, losses["loss"])


def main_process() -> bool:
    """True on the process that writes."""
    import jax

    return jax.process_index() == 0


class Runner:
    """The local runner: one process a run, one after the other, in the manifest's order."""

    def __init__(self, folder: Path, study: Manifest, command: Sequence[str] = COMMAND):
        self.folder, self.study, self.command = folder, study, command
        self._child: subprocess.Popen | None = None
        self._asked: signal.Signals | None = None

    def run(self, *, retry_failed: bool) -> None:
        """Run all that is neither finished nor failed; then list what failed."""
        before: dict[signal.Signals, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, self._handle)
        try:
            crashed = self._run_all(retry_failed)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        failed = [run for run in self.study.runs if state_of(self.folder, run) == "failed"]
        lines = [f"{run.name}: {failure_of(self.folder, run)}" for run in failed] + crashed
        if lines:
            raise OmfaError(
                f"{len(lines)} of {len(self.study.runs)} runs are not finished:\n  "
                + "\n  ".join(lines)
                + f"\ntheir logs: {self.folder}/runs/RUN/{LOG}; failed runs start again with"
                " --retry-failed, crashed ones by the same command"
            )

    def _run_all(self, retry_failed: bool) -> list[str]:
        crashed = []
        total = len(self.study.runs)
        for index, run in enumerate(self.study.runs):
            state = state_of(self.folder, run)
            place = f"[{index + 1}/{total}] {run.name}"
            if state == "finished" or (state == "failed" and not retry_failed):
                log.info("%s: %s", place, state)
                continue
            log.info("%s: %s, %s steps", place, STARTS[state], f"{run.steps:,}")
            began = time.monotonic()
            status = self._start(run)
            if self._asked is not None:
                raise Stopped(self._asked, run.name)
            if state_of(self.folder, run) == "finished":
                loss = read_result(self.folder, run).losses["loss"]
                spent = time.monotonic() - began
                log.info("%s: held-out loss %.5f, %.0f s", place, loss, spent)
            elif state_of(self.folder, run) != "failed":
                crashed.append(f"{run.name}: crashed with status {status}")
                log.warning("%s", crashed[-1])
            else:
                log.warning("%s: %s", place, failure_of(self.folder, run))
        return crashed

    def _start(self, run: StudyRun) -> int:
        """Run one run in a process of its own, which ends if this one does, and return its status.

        A run that its killed runner has left is waited for: it saves and ends.
        """
        workdir = self.folder / run.workdir
        workdir.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + WAIT_SECONDS
        while is_used(workdir):
            if time.monotonic() > deadline:
                raise OmfaError(f"another process trains in {workdir}; stop it")
            time.sleep(0.5)
        with (workdir / LOG).open("a") as file:
            self._child = subprocess.Popen(
                [*self.command, str(self.folder), "--only", run.name],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, RUNNER: str(os.getpid())},
                # a terminal's Ctrl-C reaches the run through this process alone
                process_group=0,
            )
            if self._asked is not None:
                self._child.send_signal(self._asked)
            status = self._child.wait()
            self._child = None
        return status

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = signal.Signals(number)
        if self._child is not None:
            self._child.send_signal(self._asked)


class Stopped(Exception):
    """The runner was asked to stop; the run that it was at has saved."""

    def __init__(self, number: signal.Signals, name: str):
        super().__init__(f"{number.name}: stopped in {name}; the same command goes on from there")
        self.exit_status = 128 + number


def end_with_runner() -> None:
    """Ask the kernel for SIGTERM when the runner that started this process dies, if one did.

    Only Linux can; elsewhere a killed runner's run goes on, and the next runner waits for it.
    """
    runner = os.environ.pop(RUNNER, "")
    if runner and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # it may have died before
        if os.getppid() != int(runner):
            sys.exit(128 + signal.SIGTERM)


def heldout_losses(config: "Config", workdir: Path) -> dict[str, float]:
    """Return the held-out losses of the workdir's last checkpoint (its EMA, if it has one).

    The examples, noise levels and seed are config.eval's. Every process of the job calls it.
    """
    from omfa_jax.cli import config as border
    from omfa_jax.cli.evaluation import held_out_loss, held_out_split
    from omfa_jax.cli.startup import vae_fingerprint
    from omfa_jax.evals.heldout import HeldOutSettings
    from omfa_jax.parallel.feed import place
    from omfa_jax.parallel.mesh import make_mesh
    from omfa_jax.parallel.rules import UNET_RULES, param_shardings
    from omfa_jax.train.load import load_bundle
    from omfa_jax.train.network import network_shapes

    bundle, _ = load_bundle(workdir)
    vae_id = vae_fingerprint(bundle.vae_config, bundle.vae_params)
    pipeline = border.pipeline_settings(config, vae_id=vae_id)
    mesh = make_mesh(border.mesh_settings(config))
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
