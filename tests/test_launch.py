"""Launch files: scripts pass shellcheck, JobSets validate against the schemas, restarts work."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import processes
import pytest
import yaml

from omfa_jax.cli import config_lib
from omfa_jax.core.exit_status import FAULT_KINDS, NO_RESTART, RESTART, UNEXPECTED
from omfa_jax.parallel.xla_flags import GPU_FLAGS, TPU_FLAGS, set_xla_flags
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
JOBSETS = sorted(LAUNCH.glob("*.yaml"))
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "jobset_spec.json").read_text())["schema"]
KUBERNETES = "1.30"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="apt-get install shellcheck")
def test_scripts_pass_shellcheck():
    done = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_executable(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.parametrize("path", JOBSETS, ids=lambda p: p.name)
def test_jobsets_validate_against_the_schemas(path):
    jobset = yaml.safe_load(path.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    jsonschema.validate(jobset["spec"], strict(SCHEMA))
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "omfa"}}
        job |= replicated["template"]
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**job, "spek": {}}, KUBERNETES, strict=True)


def strict(schema):
    """Return the schema with unknown keys forbidden; the API server would drop them silently."""
    if isinstance(schema, dict):
        closed = {name: strict(part) for name, part in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
        return closed
    return [strict(part) for part in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("path", JOBSETS, ids=lambda p: p.name)
def test_jobsets_train_an_existing_config(path):
    spec = yaml.safe_load(path.read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert command[:2] == ["omfa", "train"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in command[2:])
    overrides = [f"--{name}={value}" for name, value in flags.items() if "." in name]
    mesh = config_lib.make_mesh_settings(config_lib.load_config(flags["config"], overrides))
    chips = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert mesh.data * mesh.fsdp == spec["parallelism"] * sum(chips.values())


@pytest.mark.parametrize(
    ("status", "restarts", "queued"),
    [
        *((0, 0, 0), (2, 0, 0), (143, 99, 1), (137, 0, 1), (1, 19, 1), (137, 20, 0)),
        *((75, 0, 1), (75, 20, 0), (134, 3, 1)),
    ],
)
def test_slurm_requeues_what_a_restart_can_fix(tmp_path, status, restarts, queued):
    """Two words of Slurm's are played here; test_slurm.py has the real ones."""
    played = {"srun": f"exit {status}", "scontrol": f'echo "$@" >> "{tmp_path}/asked"'}
    for name, line in played.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run([LAUNCH / "slurm.sh", "some.py", tmp_path / "run"], env=environment)
    asked = tmp_path / "asked"
    assert done.returncode == status
    assert (asked.read_text() if asked.exists() else "") == "requeue 7\n" * queued


@pytest.mark.parametrize(
    ("statuses", "runs"),
    [((0,), 1), ((2,), 1), ((143,), 1), ((75, 137, 0), 3), ((1, 2), 2), ((75, 75, 75, 0), 3)],
)
def test_a_command_restarts_after_failures_that_a_restart_can_fix(tmp_path, statuses, runs):
    for index, status in enumerate(statuses):
        (tmp_path / str(index)).write_text(str(status))
    count = f'n=$(ls "{tmp_path}" | grep -c ran); touch "{tmp_path}/ran$n"'
    command = ["sh", "-c", f'{count}; exit "$(cat "{tmp_path}/$n")"']
    environment = {**os.environ, "OMFA_MAX_RESTARTS": "2", "OMFA_RESTART_WAIT_S": "0"}
    done = subprocess.run([LAUNCH / "restarting.sh", *command], env=environment, timeout=60)
    assert len(list(tmp_path.glob("ran*"))) == runs
    assert done.returncode == statuses[runs - 1]


def test_a_signal_is_forwarded_and_prevents_a_restart(tmp_path):
    command = [
        "sh",
        "-c",
        f'trap "exit 143" TERM; touch {tmp_path}/up; while :; do sleep 0.1; done',
    ]
    running = subprocess.Popen([LAUNCH / "restarting.sh", *command])
    while not (tmp_path / "up").exists():
        assert running.poll() is None
        time.sleep(0.02)
    running.terminate()
    assert running.wait(timeout=60) == 143


def test_a_signal_between_attempts_prevents_the_next(tmp_path):
    command = ["sh", "-c", f"touch {tmp_path}/ran$$; exit 75"]
    environment = {**os.environ, "OMFA_RESTART_WAIT_S": "300"}
    started = [LAUNCH / "restarting.sh", *command]
    with subprocess.Popen(started, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None and "restart 1" in running.stderr.readline()
        running.terminate()
        assert running.wait(timeout=60) == 143
    assert len(list(tmp_path.glob("ran*"))) == 1


@pytest.mark.parametrize("path", JOBSETS, ids=lambda p: p.name)
def test_jobsets_stop_on_the_no_restart_status_only(path):
    spec = yaml.safe_load(path.read_text())["spec"]
    (rule,) = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [NO_RESTART])
    assert {row.status for row in FAULT_KINDS} == {UNEXPECTED, NO_RESTART, RESTART}


def test_local_processes_train_one_model(tmp_path):
    (tmp_path / "task.py").write_text(processes.TRAINING)
    omfa = tmp_path / "omfa"
    omfa.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/task.py" "$5" 3\n')
    omfa.chmod(0o755)
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
        "OMFA_PORT": str(processes.free_port()),
        **{"DEVICES": "2", "MESH": "2,2,1"},
    }
    command = [LAUNCH / "local.sh", "2", "some.py", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("done") == 2, done.stderr[-2000:]
    assert find_newest_complete_step(tmp_path / "run" / "checkpoints") == 3


def test_flags_are_added_to_the_users_own(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)
    flag = next(iter(GPU_FLAGS))
    environment = {"XLA_FLAGS": f"--xla_mine=1 {flag}=false"}
    set_xla_flags(environment)
    words = environment["XLA_FLAGS"].split()
    assert words[:2] == ["--xla_mine=1", f"{flag}=false"] and len(words) == 1 + len(GPU_FLAGS)
    assert environment["LIBTPU_INIT_ARGS"].count("--xla") == len(TPU_FLAGS)


def test_xla_accepts_the_gpu_flags():
    """It ends a process that gives it one that it does not know."""
    flags = " ".join(f"{flag}={value}" for flag, value in GPU_FLAGS.items())
    for extra, status in (("", 0), (" --xla_gpu_no_such_flag=1", 1)):
        done = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"],
            env={**os.environ, "XLA_FLAGS": flags + extra, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
        )
        assert (done.returncode != 0) == bool(status), done.stderr


PLAYED_GCLOUD = """#!/bin/bash
# a slice of one host: ssh runs its command here, scp copies into this home
case "$3 $4" in
  "queued-resources describe") echo ACTIVE ;;
  "tpu-vm scp") cp "$5" "$HOME/${6#*:}" ;;
  "tpu-vm ssh") bash -c "${@: -1}" ;;
esac
"""
PLAYED_UV = """#!/bin/bash
if [ "$1" = venv ]; then
  # uv refuses a folder that is there
  test ! -e "${@: -1}" && mkdir -p "${@: -1}/bin" && ln -s /bin/true "${@: -1}/bin/python"
else
  cp "${HOME}/omfa_source/omfa_jax/__init__.py" "$HOME/installed.py"
fi
"""
PLAYED_OMFA = """#!/bin/bash
trap 'echo saved >> "$HOME/events"; exit 143' TERM
echo "$@" >> "$HOME/events"
while :; do sleep 0.05; done
"""


def test_a_living_slice_gets_the_new_code(tmp_path):
    """gcloud, uv and omfa are played; the commands on the hosts are the script's."""
    home, tools, checkout = tmp_path / "home", tmp_path / "tools", tmp_path / "checkout"
    for folder in (home, tools, checkout / "omfa_jax"):
        folder.mkdir(parents=True)
    events = home / "events"
    events.touch()
    for name, text in {"gcloud": PLAYED_GCLOUD, "uv": PLAYED_UV, "omfa": PLAYED_OMFA}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    shutil.copytree(LAUNCH, checkout / "launch")
    environment = {"HOME": str(home), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = [checkout / "launch" / "tpu_pod.sh", "n", "z", "v5litepod-4", "c.py", "gs://b/run"]
    try:
        for version in ("1", "2"):
            (checkout / "omfa_jax" / "__init__.py").write_text(version)
            subprocess.run(command, env=environment, check=True, timeout=60)
            assert (home / "installed.py").read_text() == version
            assert not (home / "omfa_source" / "source").exists()
            deadline = time.monotonic() + 20
            expected = ["train", "saved", "train"][: 2 * int(version) - 1]
            came = []
            while came != expected and time.monotonic() < deadline:
                came = [line.split()[0] for line in events.read_text().splitlines()]
                time.sleep(0.05)
            assert came == expected
    finally:
        os.kill(int((home / "omfa.pid").read_text()), 15)
