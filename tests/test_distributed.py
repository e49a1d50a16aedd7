"""Detection of a process's place in its job from the environment, and its arguments for JAX."""

import jax
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel import distributed
from omfa_jax.parallel.job_place import ADDRESS, COUNT, INDEX, count_tasks_on_node, find_job_place
from omfa_jax.parallel.local_gpus import choose_local_gpus, count_visible_gpus

BY_HAND = {ADDRESS: "a:1", COUNT: "4", INDEX: "2"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}
SLURM = {**STEP, "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}
# a batch script, before srun
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "1"}
SLICES = {**GKE, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
OMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
TIMEOUTS = {"initialization_timeout": 303, "heartbeat_timeout_seconds": 100}


@pytest.fixture
def environment(monkeypatch):
    def set_only(variables):
        for name in distributed.os.environ:
            if name.startswith(("JAX_", "SLURM_", "TPU_", "MEGASCALE_", "OMPI_", "PMI", "OMFA_")):
                monkeypatch.delenv(name)
        for name in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "RANK", "MPI_LOCALRANKID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_only


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, None),
        (BY_HAND, (2, 4)),
        (SLURM, (3, 8)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        # an interactive shell of one task in a job of one
        ({**STEP, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (GKE, (1, 4)),
        (SLICES, (5, 8)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        (OMPI, (1, 2)),
        (HYDRA, (1, 2)),
        ({**OMPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, None),
        # srun --mpi=pmi2 numbers the tasks a second time
        ({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "8"}, (3, 8)),
        # mpirun in a Slurm job starts its daemons, one a node, with srun
        ({**SLURM, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", **OMPI}, (1, 2)),
        ({ADDRESS: "a:1", **OMPI}, (1, 2)),
        ({ADDRESS: "a:1", **SLURM}, (3, 8)),
        # an image of a PyTorchJob of one pod
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}, None),
        ({"WORLD_SIZE": "8"}, None),
    ],
)
def test_place_in_job(variables, place):
    found = find_job_place(variables)
    assert (found and (found.index, found.count)) == place


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (BATCH, "Slurm granted 8 tasks, but this command runs as one: start it with srun"),
        # an interactive shell on a compute node, and one where salloc was called
        ({**BATCH, "SLURM_STEP_ID": "9", "SLURM_STEP_NUM_TASKS": "1"}, "granted 8 tasks"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, "granted 8 tasks"),
        ({ADDRESS: "a:1"}, f"{INDEX} is not set"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE and OMPI_COMM_WORLD_LOCAL_RANK are"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_RANK is set, but OMPI_COMM_WORLD_LOCAL_RANK is not: pass on all",
        ),
        ({"MV2_COMM_WORLD_SIZE": "4"}, "MV2_COMM_WORLD_RANK and MV2_COMM_WORLD_LOCAL_RANK are not"),
        ({**BY_HAND, INDEX: "two"}, f"{INDEX} is 'two'"),
        ({**BY_HAND, INDEX: "4"}, f"{INDEX}=4 and {COUNT}=4: expected an index from 0"),
        ({**BY_HAND, COUNT: "0", INDEX: "0"}, "expected an index from 0"),
        ({**BY_HAND, ADDRESS: "a"}, f"{ADDRESS} is 'a': expected HOST:PORT"),
        ({**BY_HAND, ADDRESS: "http://a:1"}, "expected HOST:PORT"),
        ({**BY_HAND, ADDRESS: "a:99999"}, "expected HOST:PORT"),
        ({COUNT: "4", INDEX: "2"}, f"{COUNT} is set, but {ADDRESS} is not"),
        ({**OMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "Open MPI started 2 processes on several"),
        ({**HYDRA, "MPI_LOCALNRANKS": "1"}, f"mpirun -x {ADDRESS}=HOST:PORT"),
        ({**OMPI, "OMPI_COMM_WORLD_RANK": "x"}, "OMPI_COMM_WORLD_RANK is 'x'"),
        ({"PMIX_RANK": "3"}, "PMIX_RANK=3 is an MPI launcher's"),
        ({"PMI_RANK": "3", "PMI_SIZE": "8"}, "PMI_RANK=3 is an MPI launcher's"),
        ({"RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "a"}, "=$MASTER_ADDR:PORT (of process 0"),
        (
            {"RANK": "1", "WORLD_SIZE": "8"},
            "asks for 8 processes, which JAX does not read: set JAX_COORDINATOR_ADDRESS=HOST:PORT",
        ),
        (
            {"LOCAL_RANK": "0", "WORLD_SIZE": "2"},
            "a job script that sets WORLD_SIZE asks for 2 processes",
        ),
    ],
)
def test_an_environment_that_lacks_something_is_one_line(variables, words):
    with pytest.raises(OmfaError) as told:
        find_job_place(variables)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_the_command_ends_with_that_line(environment, capsys, tmp_path):
    from omfa_jax.cli.main import main

    environment(BATCH)
    assert main(["train", "--config=configs/tiny.py", f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "omfa train: Slurm granted 8 tasks" in line


def test_processes_of_one_host_agree_on_a_port_without_being_told():
    jobs = [{**OMPI, "PMIX_NAMESPACE": name} for name in ("a", "a", "b")]
    first, same, other = (find_job_place(job).coordinator for job in jobs)
    assert first == same != other and first.startswith("localhost:6")
    assert find_job_place({ADDRESS: "a:1", **OMPI}).coordinator == "a:1"


@pytest.mark.parametrize(
    ("layout", "node", "tasks"),
    [("4", 0, 4), ("2(x3),1", 2, 2), ("2(x3),1", 3, 1), ("2", 5, None), ("", 0, None)],
)
def test_slurms_tasks_per_node(layout, node, tasks):
    assert count_tasks_on_node(layout, node) == tasks


def on_node(tasks, local, gpus, **more):
    """The environment of a Slurm task on a node with `gpus` visible GPUs."""
    return {
        **SLURM,
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x2)",
        "SLURM_LOCALID": str(local),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))),
        **more,
    }


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        # one task a node uses all of them: jax alone would take the first
        (on_node(1, 0, 8), list(range(8))),
        (on_node(8, 3, 8), [3]),
        (on_node(2, 1, 8), [4, 5, 6, 7]),
        # --gpus-per-task: each task sees its own
        (on_node(4, 3, 1, SLURM_GPUS_ON_NODE="4"), [0]),
        (on_node(2, 1, 4, SLURM_GPUS_ON_NODE="8"), [0, 1, 2, 3]),
        (on_node(2, 1, 4, SLURM_GPUS_PER_TASK="4"), [0, 1, 2, 3]),
        (on_node(4, 3, 0), None),
        (on_node(1, 0, 8, JAX_LOCAL_DEVICE_IDS="0,1"), None),
        (on_node(4, 0, 1, JAX_PLATFORMS="cpu", SLURM_GPUS_ON_NODE="1"), None),
        ({**BY_HAND, "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({**OMPI, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2, 3]),
        ({**OMPI, "CUDA_VISIBLE_DEVICES": "1"}, [0]),
    ],
)
def test_a_process_uses_its_share_of_the_gpus(variables, gpus):
    assert choose_local_gpus(find_job_place(variables), variables) == gpus


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (on_node(3, 1, 8), "3 processes of this host cannot share 8 GPUs evenly"),
        (on_node(4, 1, 1, SLURM_GPUS_ON_NODE="1"), "4 tasks of this host share 1 GPU: ask for"),
    ],
)
def test_gpus_that_cannot_be_shared_are_one_line(variables, words):
    with pytest.raises(OmfaError, match=words):
        choose_local_gpus(find_job_place(variables), variables)


@pytest.mark.parametrize(
    ("visible", "count"),
    [("0,1", 2), ("", 0), ("-1", 0), ("0,-1,2", 1), ("NoDevFiles", 0), ("MIG-1,MIG-2", 2)],
)
def test_visible_gpus_are_counted(visible, count):
    assert count_visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == count


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "3"}, {"local_device_ids": [0]}),
        (on_node(1, 0, 2), {"local_device_ids": [0, 1]}),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1"}, {}),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": ""}, {}),
        (
            {**BY_HAND, "CUDA_VISIBLE_DEVICES": ""},
            {
                "coordinator_address": "a:1",
                "num_processes": 4,
                "process_id": 2,
                # else a scheduler's variables around it would choose the GPU
                "cluster_detection_method": "deactivate",
            },
        ),
    ],
)
def test_jax_is_told_the_place_and_the_gpus(
    environment, monkeypatch, tmp_path, variables, expected
):
    environment(variables)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    distributed.initialize(tmp_path)
    assert calls == [{**TIMEOUTS, **expected}]


def test_a_queued_tpu_host_lets_jax_find_the_others(environment, monkeypatch, tmp_path):
    environment({})
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    distributed.initialize(tmp_path)
    assert not calls
    monkeypatch.setattr(distributed, "is_tpu_host", lambda: True)
    distributed.initialize(tmp_path)
    assert calls == [TIMEOUTS]


@pytest.mark.parametrize("name", ["OMFA_JOIN_TIMEOUT_S", "OMFA_HANG_TIMEOUT_S"])
@pytest.mark.parametrize("value", ["soon", "-1", "0", "1.5", "9" * 30])
def test_a_timeout_that_is_none_is_named(environment, tmp_path, name, value):
    environment({**BY_HAND, name: value})
    with pytest.raises(OmfaError, match=f"{name} is '?9*.*: expected a number of seconds"):
        distributed.initialize(tmp_path)
