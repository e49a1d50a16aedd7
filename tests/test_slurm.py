"""launch/slurm.sh on a real Slurm: two tasks train, are stopped or killed, are queued again."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import processes
import pytest
import slurm

from omfa_jax.core import trees
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step

LAUNCH = Path(__file__).parents[1] / "launch"
STEPS = 16
pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=f"no Slurm: {slurm.missing()}")


# on one of the two tasks, in the third step
FAULT = """
import jax
if step == 3 and jax.process_index() == 1:
    raise {fault}
"""
# error -> status of the job, and how often it is queued again
FAULTS = {
    "OSError(28, 'No space left', '/mnt')": (2, 0),
    "OSError(116, 'Stale', '/mnt')": (75, 1),
}


class Submitted(NamedTuple):
    """A job, and the folder of its workdir `run`, its log and its programs."""

    job: str
    folder: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    def read_log(self) -> str:
        return (self.folder / "job.log").read_text()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each job, as futures: all are submitted at once, for most of it is waiting."""
    cluster = slurm.Slurm(tmp_path_factory.mktemp("slurm"))
    scenarios = {"sigterm": send_sigterm, "kill": kill_one_task}
    scenarios |= {fault: functools.partial(check_fault, fault) for fault in FAULTS}
    submitted = {}
    with ThreadPoolExecutor(len(scenarios)) as pool:
        futures = {}
        for name, scenario in scenarios.items():
            folder = tmp_path_factory.mktemp("job")
            submitted[name] = submit(cluster, folder, name if name in FAULTS else "")
            futures[name] = pool.submit(scenario, cluster, submitted[name])
        yield futures
        for each in submitted.values():
            if cluster.field(each.job, "JobState") in ("RUNNING", "PENDING"):
                cluster.call("scancel", each.job)
    cluster.stop()


def submit(cluster, folder, fault) -> Submitted:
    """Start a run under launch/slurm.sh; `omfa` is the small run of processes.py, 0.2 s a step.

    With a fault, if one is given, and then one restart at most.
    """
    (folder / "task.py").write_text(processes.TRAINING)
    omfa = folder / "omfa"
    # omfa train --config FILE --workdir DIR
    omfa.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/task.py" "$5" {STEPS}\n')
    omfa.chmod(0o755)
    here = Path(__file__).parent
    environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
        **{"DEVICES": "2", "MESH": "2,2,1", "SAVE": "4", "PAUSE": "0.2"},
        "EACH": FAULT.format(fault=fault) if fault else "",
        "OMFA_MAX_RESTARTS": "1",
    }
    flags = ["--ntasks-per-node=2", "--cpus-per-task=1", f"--output={folder}/job.log"]
    script, workdir = LAUNCH / "slurm.sh", folder / "run"
    job = cluster.call("sbatch", "--parsable", *flags, script, "some.py", workdir, **environment)
    return Submitted(job, folder)


def wait(what, seconds=400):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.3)
    raise AssertionError("it did not happen in time")


def newest(workdir):
    return find_newest_complete_step(workdir / "checkpoints", warn=False) or 0


def finish(cluster, submitted) -> str:
    """Wait for the end of a job that was queued again; return its log."""
    job, workdir = submitted.job, submitted.workdir
    wait(lambda: int(cluster.field(job, "Restarts")) == 1)
    wait(lambda: cluster.field(job, "JobState") == "COMPLETED")
    log = submitted.read_log()
    assert newest(workdir) == STEPS, log
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [(row["step"], row["loss"]) for row in map(json.loads, lines)]
    # steps after the last save are logged again, with the same loss to the last bit
    assert sorted(dict(rows)) == list(range(1, STEPS + 1)) and len(set(rows)) == STEPS
    return log


def send_sigterm(cluster, submitted):
    job, workdir = submitted.job, submitted.workdir
    wait(lambda: newest(workdir) >= 4)
    # what --signal=TERM@120 and preemption send
    cluster.call("scancel", "--signal=TERM", job)
    wait(lambda: int(cluster.field(job, "Restarts")) == 1)
    saved = newest(workdir)
    assert 4 <= saved < STEPS
    assert f"SIGTERM: saved step {saved}" in finish(cluster, submitted)
    return workdir


def check_fault(fault, cluster, submitted):
    status, restarts = FAULTS[fault]
    wait(lambda: cluster.field(submitted.job, "JobState") == "FAILED")
    assert cluster.field(submitted.job, "ExitCode") == f"{status}:0"
    assert int(cluster.field(submitted.job, "Restarts")) == restarts
    log = submitted.read_log()
    assert log.count("omfa: exiting because of process 1 on ") == restarts + 1


def kill_one_task(cluster, submitted):
    wait(lambda: newest(submitted.workdir) >= 4)
    task = f"{submitted.folder}/task.py"
    found = subprocess.run(["pgrep", "-f", task], capture_output=True, text=True)
    pids = list(map(int, found.stdout.split()))
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    finish(cluster, submitted)
    return submitted.workdir


def test_sigterm_saves_and_the_job_is_queued_again(outcomes):
    outcomes["sigterm"].result()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_one_task_is_queued_again_if_that_may_help(outcomes, fault):
    outcomes[fault].result()


def test_a_killed_task_ends_the_job_and_it_goes_on_from_the_last_save(outcomes):
    killed, stopped = (outcomes[name].result() for name in ("kill", "sigterm"))
    # interrupted at different steps, and in different ways
    pairs = zip(
        *(trees.flatten(restore_params(each)[0]) for each in (killed, stopped)), strict=True
    )
    for (_, ours), (_, theirs) in pairs:
        np.testing.assert_array_equal(ours, theirs)
