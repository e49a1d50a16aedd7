"""launch/slurm.sh on a real Slurm: two tasks train, are stopped or killed, are queued again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import slurm

from omfa_jax.core import trees
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.checkpointer import find_newest_complete_step

LAUNCH = Path(__file__).parents[1] / "launch"
STEPS = 16
pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=f"no Slurm: {slurm.missing()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = slurm.Slurm(tmp_path_factory.mktemp("slurm"))
    yield started
    started.stop()


# on one of the two tasks, in the third step
FAULT = """
import jax
if step == 3 and jax.process_index() == 1:
    raise {fault}
"""


@pytest.fixture
def submitted(cluster, tmp_path, request):
    """A run under launch/slurm.sh; `omfa` is the small run of processes.py, one step each 0.2 s.

    With a fault, if one is given, and then one restart at most.
    """
    (tmp_path / "task.py").write_text(processes.TRAINING)
    omfa = tmp_path / "omfa"
    # omfa train --config FILE --workdir DIR
    omfa.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/task.py" "$5" {STEPS}\n')
    omfa.chmod(0o755)
    here = Path(__file__).parent
    cluster.environment |= {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
        **{"DEVICES": "2", "MESH": "2,2,1", "SAVE": "4", "PAUSE": "0.2"},
        "EACH": FAULT.format(fault=request.param) if hasattr(request, "param") else "",
        "OMFA_MAX_RESTARTS": "1",
    }
    flags = ["--ntasks-per-node=2", "--cpus-per-task=1", f"--output={tmp_path}/job.log"]
    script, workdir = LAUNCH / "slurm.sh", tmp_path / "run"
    job = cluster.call("sbatch", "--parsable", *flags, script, "some.py", workdir)
    yield job, workdir
    if cluster.field(job, "JobState") in ("RUNNING", "PENDING"):
        cluster.call("scancel", job)


def wait(what, seconds=400):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.3)
    raise AssertionError("it did not happen in time")


def newest(workdir):
    return find_newest_complete_step(workdir / "checkpoints", warn=False) or 0


def finish(cluster, job, workdir):
    """Wait for the end of a job that was queued again."""
    wait(lambda: int(cluster.field(job, "Restarts")) == 1)
    log = (workdir.parent / "job.log").read_text
    wait(lambda: cluster.field(job, "JobState") == "COMPLETED")
    assert newest(workdir) == STEPS, log()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [(row["step"], row["loss"]) for row in map(json.loads, lines)]
    # steps after the last save are logged again, with the same loss to the last bit
    assert sorted(dict(rows)) == list(range(1, STEPS + 1)) and len(set(rows)) == STEPS
    return log()


def test_sigterm_saves_and_the_job_is_queued_again(cluster, submitted, tmp_path):
    job, workdir = submitted
    wait(lambda: newest(workdir) >= 4)
    # what --signal=TERM@120 and preemption send
    cluster.call("scancel", "--signal=TERM", job)
    wait(lambda: int(cluster.field(job, "Restarts")) == 1)
    saved = newest(workdir)
    assert 4 <= saved < STEPS
    log = finish(cluster, job, workdir)
    assert f"SIGTERM: saved step {saved}" in log


@pytest.mark.parametrize(
    ("submitted", "status", "restarts"),
    [("OSError(28, 'No space left', '/mnt')", 2, 0), ("OSError(116, 'Stale', '/mnt')", 75, 1)],
    indirect=["submitted"],
)
def test_a_fault_on_one_task_is_queued_again_if_that_may_help(
    cluster, submitted, tmp_path, status, restarts
):
    job, _ = submitted
    wait(lambda: cluster.field(job, "JobState") == "FAILED")
    assert cluster.field(job, "ExitCode") == f"{status}:0"
    assert int(cluster.field(job, "Restarts")) == restarts
    log = (tmp_path / "job.log").read_text()
    assert log.count("omfa: exiting because of process 1 on ") == restarts + 1


def test_a_killed_task_ends_the_job_and_it_goes_on_from_the_last_save(cluster, submitted, tmp_path):
    job, workdir = submitted
    wait(lambda: newest(workdir) >= 4)
    found = subprocess.run(["pgrep", "-f", f"{tmp_path}/task.py"], capture_output=True, text=True)
    pids = list(map(int, found.stdout.split()))
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    finish(cluster, job, workdir)
    straight = tmp_path / "straight"
    for status, out, err in processes.finish(
        processes.start(straight, STEPS, 2, SAVE="4", MESH="2,2,1")
    ):
        assert status == 0 and f"done {STEPS}" in out, err[-2000:]
    for (_, ours), (_, theirs) in zip(
        trees.flatten(restore_params(workdir)[0]),
        trees.flatten(restore_params(straight)[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
