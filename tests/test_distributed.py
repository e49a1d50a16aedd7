"""Detection of a process's place in its job from the environment, and its arguments for JAX."""

import jax
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel import distributed

VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "TPU_WORKER_HOSTNAMES",
    "TPU_WORKER_ID",
    "MEGASCALE_NUM_SLICES",
    "MEGASCALE_SLICE_ID",
    "CUDA_VISIBLE_DEVICES",
)
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
SLURM = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "1"}
SLICES = {**GKE, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}


@pytest.fixture
def environment(monkeypatch):
    def set_only(variables):
        for name in VARIABLES:
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
        (GKE, (1, 4)),
        (SLICES, (5, 8)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_place_in_job(environment, variables, place):
    environment(variables)
    assert distributed.get_process_index_and_count() == place


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "3"}, {"local_device_ids": [0]}),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1"}, {}),
        (SLURM, {}),
        (
            BY_HAND,
            {"coordinator_address": "a:1", "num_processes": 4, "process_id": 2},
        ),
    ],
)
def test_a_task_that_sees_one_gpu_uses_device_0(
    environment, monkeypatch, tmp_path, variables, expected
):
    environment(variables)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    distributed.initialize(tmp_path)
    assert calls == [{"initialization_timeout": 303, **expected}]


def test_a_queued_tpu_host_lets_jax_find_the_others(environment, monkeypatch, tmp_path):
    environment({})
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    distributed.initialize(tmp_path)
    assert not calls
    monkeypatch.setattr(distributed, "is_tpu_host", lambda: True)
    distributed.initialize(tmp_path)
    assert calls == [{"initialization_timeout": 303}]


def test_a_variable_that_is_not_an_integer_is_named(environment, tmp_path):
    environment({**BY_HAND, "JAX_PROCESS_ID": "two"})
    with pytest.raises(OmfaError, match="JAX_PROCESS_ID is 'two'"):
        distributed.initialize(tmp_path)


def test_revision_without_git_access_is_unknown(monkeypatch):
    def refuse(command, **_):
        raise distributed.subprocess.CalledProcessError(128, command)

    monkeypatch.setattr(distributed.subprocess, "run", refuse)
    assert distributed.get_code_revision().endswith(" unknown")
