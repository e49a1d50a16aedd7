"""The local runner of a study: a kill costs no run, and several at a time share the machine."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from scaling_studies import plan

from omfa_jax.cli.main import main
from omfa_jax.cli.scaling_run import run_one
from omfa_jax.core.atomic_files import LOCK_NAME, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.studies.run_results import collect_rows, get_run_state, write_failure
from omfa_jax.studies.study_runner import StudyRunner, get_available_cores, split_machine

# plays `omfa scaling run`: holds the workdir's lock as training does, takes its time, and fails,
# crashes or finishes as its name's end says; a signal ends it with a save
PLAYED = """
import os, signal, sys, time
from pathlib import Path
from omfa_jax.studies.study_runner import terminate_with_runner, apply_core_share
from omfa_jax.core.atomic_files import LOCK_NAME, exclusive_lock
from omfa_jax.studies.run_results import write_failure, write_result
from omfa_jax.studies.study_manifest import read_study
terminate_with_runner()
apply_core_share()
folder, name = Path(sys.argv[1]), sys.argv[3]
run = read_study(folder).get_run(name)
workdir = folder / run.workdir
def stop(number, frame):
    time.sleep(0.3)
    (workdir / "saved").write_text("x")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
with exclusive_lock(workdir / LOCK_NAME):
    with (folder / "trained.txt").open("a") as file:
        file.write(name + "\\n")
    (workdir / "cores.txt").write_text(repr(sorted(os.sched_getaffinity(0))))
    time.sleep(float(os.environ.get("PLAY_SECONDS", "0")))
    if (folder / f"{name}.fails").exists():
        write_failure(folder, run, 2, "the loss is NaN at step 7")
        sys.exit(2)
    if (folder / f"{name}.crashes").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    for mark in folder.glob(f"{name}.transient*"):
        mark.unlink()
        sys.exit(75)
    write_result(folder, run, {"loss": 1.0 / run.samples, "loss/try_on": 0.5})
"""
RUNNER = """
import sys
from pathlib import Path
from omfa_jax.studies.study_runner import StudyRunner, RunnerInterrupt
from omfa_jax.studies.study_manifest import read_study
folder, parallel = Path(sys.argv[1]), int(sys.argv[3])
try:
    runner = StudyRunner(folder, read_study(folder), [sys.executable, sys.argv[2]])
    runner.run(retry_failed=False, parallel=parallel)
except RunnerInterrupt as stopped:
    sys.exit(stopped.exit_status)
"""


@pytest.fixture
def played(tmp_path):
    """Return (study folder, a Runner on it whose training is played, that as a command)."""
    samples = ",".join(str(640 + 64 * i) for i in range(6))
    study = plan(tmp_path / "s", "--samples", samples, "--min-steps", "10")
    script = tmp_path / "played.py"
    script.write_text(PLAYED)
    runner = StudyRunner(tmp_path / "s", study, [sys.executable, str(script)])
    (tmp_path / "runner.py").write_text(RUNNER)
    command = [sys.executable, str(tmp_path / "runner.py"), str(tmp_path / "s"), str(script)]
    return tmp_path / "s", runner, command


def test_failed_runs_are_listed_and_left_crashed_ones_start_again(played):
    folder, runner, _ = played
    first, second, *others = [run.name for run in runner.study.runs]
    (folder / f"{first}.fails").touch()
    (folder / f"{second}.crashes").touch()
    with pytest.raises(OmfaError, match="2 of 12 runs are not finished") as error:
        runner.run(retry_failed=False)
    assert f"{first}: exit status 2: the loss is NaN at step 7" in str(error.value)
    assert f"{second}: crashed with status -9" in str(error.value)
    for mark in ("fails", "crashes"):
        next(folder.glob(f"*.{mark}")).unlink()
    with pytest.raises(OmfaError, match=f"1 of 12 runs are not finished:\n  {first}"):
        runner.run(retry_failed=False)
    runner.run(retry_failed=True)
    trained = (folder / "trained.txt").read_text().split()
    assert trained == [first, second, *others, second, first]
    assert len(collect_rows(runner.study, folder)) == 12


def test_what_may_pass_is_waited_for_and_the_run_goes_on(played, monkeypatch):
    folder, runner, _ = played
    monkeypatch.setattr("omfa_jax.studies.study_runner.RESTART_WAIT_S", 0)
    first, second = [run.name for run in runner.study.runs][:2]
    for index in range(2):
        (folder / f"{first}.transient{index}").touch()
    for index in range(5):
        (folder / f"{second}.transient{index}").touch()
    with pytest.raises(OmfaError, match="1 of 12 runs are not finished") as error:
        runner.run(retry_failed=False)
    assert f"{second}: crashed with status 75" in str(error.value)
    trained = (folder / "trained.txt").read_text().split()
    assert (trained.count(first), trained.count(second)) == (3, 4)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (OSError(28, "No space left on device"), "failed"),
        (OmfaError("bad setting"), "failed"),
        (OSError(116, "Stale file handle"), "begun"),
        (KeyError("bug"), "begun"),
    ],
)
def test_only_what_no_restart_mends_is_marked_as_failed(played, monkeypatch, error, state):
    folder, runner, _ = played
    run = runner.study.runs[0]
    (folder / run.workdir).mkdir(parents=True)

    def fail(*_):
        raise error

    monkeypatch.setattr("omfa_jax.cli.config_lib.load_config", fail)
    with pytest.raises(type(error)):
        run_one(folder, run, retry_failed=False)
    assert get_run_state(folder, run) == state


two_cores = pytest.mark.skipif(len(get_available_cores()) < 2, reason="needs two cores to share")


@pytest.mark.parametrize(
    ("number", "parallel"),
    [
        (signal.SIGKILL, 1),
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGKILL, 2, marks=two_cores),
    ],
)
def test_a_study_that_is_killed_halfway_ends_with_every_run_once(played, number, parallel):
    folder, runner, command = played
    command = [*command, str(parallel)]
    environment = {**os.environ, "PLAY_SECONDS": "0.4"}
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("runs/*/result.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(timeout=20) == (-9 if number == signal.SIGKILL else 143)
    assert len(list(folder.glob("runs/*/result.json"))) < 12
    # at once: the run that a killed runner leaves behind still saves
    subprocess.run(command, check=True, timeout=120)
    table = collect_rows(runner.study, folder)
    assert sorted(row["name"] for row in table) == sorted(run.name for run in runner.study.runs)
    trained = (folder / "trained.txt").read_text().split()
    twice = {name for name in trained if trained.count(name) > 1}
    assert len(trained) <= 12 + parallel and len(twice) <= parallel


def test_a_failed_run_that_is_tried_again_and_killed_goes_on(played):
    folder, runner, _ = played
    first = runner.study.runs[0]
    (folder / f"{first.name}.fails").touch()
    with pytest.raises(OmfaError, match="the loss is NaN at step 7"):
        runner.run(retry_failed=False)
    (folder / f"{first.name}.fails").rename(folder / f"{first.name}.crashes")
    with pytest.raises(OmfaError, match="crashed with status -9"):
        runner.run(retry_failed=True)
    assert get_run_state(folder, first) == "begun"
    (folder / f"{first.name}.crashes").unlink()
    runner.run(retry_failed=False)
    assert get_run_state(folder, first) == "finished"


def test_one_run_that_cannot_start_hides_no_other(played, monkeypatch):
    folder, runner, _ = played
    first, second, third = runner.study.runs[:3]
    (folder / f"{second.name}.crashes").touch()
    (folder / third.workdir).mkdir(parents=True)
    (folder / third.workdir / "result.json").write_text("{}")
    monkeypatch.setattr("omfa_jax.studies.study_runner.WAIT_SECONDS", 0)
    (folder / first.workdir).mkdir(parents=True)
    with exclusive_lock(folder / first.workdir / LOCK_NAME), pytest.raises(OmfaError) as error:
        runner.run(retry_failed=False)
    lines = str(error.value).splitlines()
    assert lines[0] == "3 of 12 runs are not finished:"
    assert "another process is training in" in lines[1] and "crashed with status -9" in lines[2]
    assert "is damaged" in lines[3]
    assert len(list(folder.glob("runs/*/result.json"))) == 10


def test_an_array_task_leaves_a_failed_run_alone(played, capsys):
    folder, runner, _ = played
    run = runner.study.runs[0]
    (folder / run.workdir).mkdir(parents=True)
    write_failure(folder, run, 2, "the loss is NaN at step 7")
    command = ["scaling", "run", str(folder)]
    for one in (["--index", "0"], ["--only", run.name]):
        assert main([*command, *one]) == 2
        assert "has failed: exit status 2: the loss is NaN" in capsys.readouterr().err
    (folder / run.workdir / "failed.json").write_text("[")
    assert main([*command, "--index", "0"]) == 2
    assert "failed.json is damaged" in capsys.readouterr().err
    assert main([*command, "--index", "0", "--parallel", "2"]) == 2
    assert "does not apply to a single run" in capsys.readouterr().err


@two_cores
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_runs_at_a_time_have_their_own_cores_and_save_when_the_runner_goes(played, number):
    folder, runner, command = played
    process = subprocess.Popen([*command, "2"], env={**os.environ, "PLAY_SECONDS": "30"})
    deadline = time.monotonic() + 60
    while len(list(folder.glob("runs/*/cores.txt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=20) == (143 if number == signal.SIGTERM else -9)
    # a killed runner's runs get their signal from the kernel
    deadline = time.monotonic() + 20
    while len(list(folder.glob("runs/*/saved"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(folder.glob("runs/*/saved"))) == 2
    assert [get_run_state(folder, run) for run in runner.study.runs].count("planned") == 10
    cores = [set(json.loads(path.read_text())) for path in folder.glob("runs/*/cores.txt")]
    assert not cores[0] & cores[1] and cores[0] | cores[1] == set(get_available_cores())


def test_the_machine_is_shared_out_whole():
    found = split_machine(3, cores=range(8), gpus=["0", "1", "GPU-7f", "3"])
    assert [one["OMFA_STUDY_CORES"] for one in found] == ["0,1", "2,3,4", "5,6,7"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "1", "GPU-7f,3"]
    assert split_machine(1, cores=range(8), gpus=["0"]) == [{}]
    assert split_machine(2, cores=[], gpus=[]) == [{}, {}]
    for count, cores, gpus, reason in (
        (0, 8, 0, "must be 1 or more, got 0"),
        (4, 2, 0, "this machine has only 2 cores"),
        (2, 8, 1, "this machine has only 1 GPUs"),
    ):
        with pytest.raises(OmfaError, match=reason):
            split_machine(count, cores=range(cores), gpus=[str(index) for index in range(gpus)])


def test_one_runner_a_study(played, capsys):
    folder, *_ = played
    with exclusive_lock(folder / LOCK_NAME):
        assert main(["scaling", "run", str(folder)]) == 2
    assert "another run is using" in capsys.readouterr().err
