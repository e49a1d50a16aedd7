"""Places and GPUs of processes in the environments that a real Slurm makes."""

import pytest
import slurm

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.job_place import find_job_place
from omfa_jax.parallel.local_gpus import choose_local_gpus

pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=f"no Slurm: {slurm.missing()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = slurm.Slurm(tmp_path_factory.mktemp("slurm"))
    yield started
    started.stop()


def run_job(cluster, folder, *flags, srun="srun"):
    """Run a job that writes the environment of each task; return them in the order of tasks."""
    task = folder / "task.sh"
    task.write_text(f'#!/bin/sh\nenv -0 > "{folder}/env$SLURM_PROCID"\n')
    task.chmod(0o755)
    job = folder / "job.sh"
    job.write_text(f"#!/bin/sh\n{srun} {task}\n")
    cluster.call("sbatch", "--wait", f"--output={folder}/log", *flags, job)
    found = sorted(folder.glob("env*"))
    texts = (path.read_text().split("\0") for path in found)
    return [dict(line.split("=", 1) for line in text if "=" in line) for text in texts]


@pytest.mark.parametrize(
    ("flags", "gpus"),
    [
        # one task with several GPUs uses all of them, with others or alone
        (("--ntasks-per-node=2", "--gpus-per-task=2"), [[0, 1], [0, 1]]),
        (("--ntasks-per-node=2", "--gpus-per-task=1"), [[0], [0]]),
        (("--ntasks-per-node=2", "--gpus-per-node=4"), [[0, 1], [2, 3]]),
        (("--ntasks-per-node=4", "--gres=gpu:4"), [[0], [1], [2], [3]]),
        (("--ntasks-per-node=2",), [None, None]),
    ],
)
def test_tasks_use_all_gpus_of_the_job(cluster, tmp_path, flags, gpus):
    environments = run_job(cluster, tmp_path, *flags)
    places = [find_job_place(environment) for environment in environments]
    assert [(p.index, p.count, p.local_index, p.local_count) for p in places] == [
        (number, len(gpus), number, len(gpus)) for number in range(len(gpus))
    ]
    for place, environment, wanted in zip(places, environments, gpus, strict=True):
        environment.setdefault("CUDA_VISIBLE_DEVICES", "")
        # the tests' own
        del environment["JAX_PLATFORMS"]
        assert choose_local_gpus(place, environment) == wanted


def test_a_single_task_is_a_job_of_its_own(cluster, tmp_path):
    (environment,) = run_job(cluster, tmp_path, "--ntasks=1", "--gpus-per-task=4")
    assert find_job_place(environment) is None
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_several_tasks_without_srun_are_one_line(cluster, tmp_path):
    (environment,) = run_job(cluster, tmp_path, "--ntasks=4", srun="")
    with pytest.raises(OmfaError, match="Slurm granted 4 tasks, but this command runs as one"):
        find_job_place(environment)
