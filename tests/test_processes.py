"""Several processes train as one, stop together, and go on with another number of them."""

import json
import signal
import time

import numpy as np
import processes
import pytest

from omfa_jax.core import trees
from omfa_jax.parallel.rendezvous import get_expected_hosts
from omfa_jax.train.checkpoints.checkpoint_weights import restore_params
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


def run(workdir, steps, count, **environment):
    ended = processes.finish(processes.start(workdir, steps, count, **environment))
    for status, out, err in ended:
        assert status == 0 and f"done {steps}" in out, err[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Six steps of one process on four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    run(workdir, 6, 1)
    return workdir


def newest(workdir):
    return find_newest_complete_step(workdir / "checkpoints", warn=False) or 0


def same_weights(a, b, atol=2e-4):
    ours, theirs = (dict(trees.flatten(restore_params(folder)[0])) for folder in (a, b))
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[path], atol=atol, err_msg="/".join(path))


def test_two_processes_are_one_and_four_go_on(alone, tmp_path):
    run(tmp_path, 3, 2)
    assert losses(tmp_path) == pytest.approx({s: losses(alone)[s] for s in (1, 2, 3)}, rel=2e-5)
    run(tmp_path, 6, 4)
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=2e-5)
    same_weights(alone, tmp_path)


def test_processes_that_share_rows_feed_the_same_ones(alone, tmp_path):
    """Tensor parallelism over two processes: both hold all rows, none may hold its own."""
    run(tmp_path, 3, 2, MESH="1,1,4")
    assert losses(tmp_path) == pytest.approx({s: losses(alone)[s] for s in (1, 2, 3)}, rel=2e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_all_after_the_same_step(tmp_path, number):
    """Long before the next line of the log: a spot machine is gone 30 seconds after its signal."""
    running = processes.start(tmp_path, 5000, 2, PAUSE="0.05", SAVE="10", LOG="4000")
    wait_for(lambda: newest(tmp_path), running)
    running[1].send_signal(number)
    ended = processes.finish(running)
    said = {out.strip().splitlines()[-1] for _, out, _ in ended}
    assert [status for status, _, _ in ended] == [143, 143] and len(said) == 1, ended
    step = newest(tmp_path)
    assert step < 4000
    assert said == {f"SIGTERM: saved step {step}; run the same command to resume"}


def test_one_device_without_memory_ends_the_pictures_of_all(tmp_path):
    """They gather weights from every process: the others would wait for ever for the one."""
    ended = processes.finish(processes.start(tmp_path, 3, 2, FULL="1", SAMPLES="1"))
    for status, out, err in ended:
        assert status == 0 and "done 3" in out, err[-3000:]
        assert out.count("pictures") == 1 and "out of memory for sample images" in err


def test_a_killed_process_costs_the_steps_since_the_last_save(alone, tmp_path):
    for victim in (0, 1):
        running = processes.start(tmp_path, 500, 2, PAUSE="0.1", SAVE="2")
        goal = newest(tmp_path) + 2
        wait_for(lambda goal=goal: newest(tmp_path) >= goal, running)
        running[victim].kill()
        # the other one would wait for it; a scheduler ends it, and so do we
        time.sleep(0.5)
        running[1 - victim].kill()
        processes.finish(running)
    last = max(losses(tmp_path))
    assert last - newest(tmp_path) <= 3
    run(tmp_path, last + 2, 1)
    rows = losses(tmp_path)
    early = {step: rows[step] for step in losses(alone)}
    assert early == pytest.approx(losses(alone), rel=2e-5)
    assert sorted(rows) == list(range(1, last + 3))


def test_processes_that_disagree_are_named(tmp_path):
    ended = processes.finish(processes.start(tmp_path, 1, 2, FACT_1="other"))
    for status, _, err in ended:
        assert status == 2, err[-2000:]
        assert "the processes of this job do not agree: the config of process 1 on " in err


def test_what_watches_ends_before_python(tmp_path):
    """A thread that returns from jaxlib while Python ends aborts the process (status -6)."""
    program = processes.TRAINING.replace(
        "set_up_logs()\n",
        "set_up_logs()\nfrom omfa_jax.parallel import hang_watcher, job_exit\n"
        "hang_watcher.BEAT_S = job_exit.ASK_S = 0.0005\n",
        1,
    )
    for status, out, err in processes.finish(processes.start(tmp_path, 1, 2, program=program)):
        assert status == 0 and "done 1" in out, err[-2000:]


def wait_for(ready, running, seconds=240.0):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "nothing happened"
        assert all(process.poll() is None for process in running), processes.finish(running)
        time.sleep(0.05)


def test_those_that_came_name_the_one_that_is_missing(tmp_path):
    faults = {"OMFA_JOIN_TIMEOUT_S": "8", "EARLY_2": "os._exit(0)"}
    running = processes.start(tmp_path, 3, 3, devices=3, **faults)
    ended = processes.finish(running)[:2]
    assert all(status != 0 for status, _, _ in ended)
    said = "\n".join(err for _, _, err in ended)
    assert "timed out after 8 s waiting for other processes of this job" in said
    assert "process 2 of 3 missing; connected: 0 on " in said


def test_the_scheduler_says_where_the_missing_one_should_be(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-a,host-b")
    assert get_expected_hosts(4) == ["host-a", "host-a", "host-b", "host-b"]
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "")
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    monkeypatch.delenv("SLURM_NODELIST", raising=False)
    assert get_expected_hosts(4) == []
