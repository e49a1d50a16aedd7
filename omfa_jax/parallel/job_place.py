"""The place of this process in its job, read from what the launcher has put in the environment.

Recognised: JAX_COORDINATOR_ADDRESS by hand, Slurm's srun, mpirun (Open MPI, MPICH, Intel MPI,
MVAPICH, PALS) and GKE's TPU slices. Environments that look like a job but lack something are
errors: every process would otherwise train a model of its own, or wait for the others in vain.
"""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.value_rules import format_value

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# launcher -> its variables of rank and size, in the job and on this host
MPI = {
    "Open MPI": (
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    "MVAPICH": (
        *("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
        *("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ),
    "MPICH or Intel MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "PALS": ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
}
# the job's own names, from which processes of one host derive the same port
MPI_JOBS = ("PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri", "PMI_JOBID", "PALS_APID", "SLURM_JOB_ID")
# what torchrun sets beside WORLD_SIZE; its imitations leave some out
TORCH_PLACES = ("RANK", "LOCAL_RANK", "MASTER_ADDR")
PORTS = range(61440, 65536)
_ADDRESS = re.compile(r"[^/\s]*[^/\s:\]]\]?:\d{1,5}")


@dataclass(frozen=True)
class JobPlace:
    """The index of this process among the `count` of its job, and among those of its host.

    `coordinator`: host:port of process 0; None if jax finds it. `local_index`, `local_count`: None
    if the launcher does not say.
    """

    index: int
    count: int
    launcher: str
    coordinator: str | None = None
    local_index: int | None = None
    local_count: int | None = None


def find_job_place(environment: Mapping[str, str] = os.environ) -> JobPlace | None:
    """Return this process's place; None in a single-process job.

    Raises a one-line OmfaError for an incomplete or contradictory environment.
    """
    read = _Reader(environment)
    mpi, slurm = _find_mpi(read), _find_slurm(read)
    # mpirun within a Slurm job starts its own daemons with srun: their variables are not ours
    if mpi and slurm and (mpi.index, mpi.count) == (slurm.index, slurm.count):
        mpi = None
    if ADDRESS in environment:
        return _find_by_hand(read, mpi or slurm)
    for name in (COUNT, INDEX):
        if name in environment:
            raise OmfaError(
                f"{name} is set, but {ADDRESS} is not: set it to HOST:PORT of process 0, or unset"
                f" {name} to run one process"
            )
    if mpi:
        return _complete_mpi(read, mpi)
    if slurm:
        return slurm
    _refuse_slurm_without_srun(read)
    _refuse_half_mpi(read)
    _refuse_torchrun(read)
    return _find_tpu_slice(read)


class _Reader:
    """Integers of an environment."""

    def __init__(self, environment: Mapping[str, str]):
        self.environment = environment

    def number(self, name: str, default: int | None = None) -> int:
        text = self.environment.get(name, default)
        try:
            return int(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            came = "is not set" if text is None else f"is {format_value(text)}"
            raise OmfaError(
                f"{name} {came}: expected an integer. {ADDRESS} (host:port) needs {COUNT} and"
                f" {INDEX} next to it"
            ) from None

    def optional(self, name: str) -> int | None:
        return self.number(name) if self.environment.get(name) else None


def _find_by_hand(read: _Reader, launched: JobPlace | None) -> JobPlace:
    address = read.environment[ADDRESS]
    if not _ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 65536:
        raise OmfaError(
            f"{ADDRESS} is {format_value(address)}: expected HOST:PORT of process 0, such as"
            " 10.0.0.1:29400"
        )
    if launched and COUNT not in read.environment and INDEX not in read.environment:
        # mpirun -x JAX_COORDINATOR_ADDRESS=...: the launcher numbers the processes
        local = (launched.local_index, launched.local_count)
        return JobPlace(launched.index, launched.count, launched.launcher, address, *local)
    index, count = read.number(INDEX), read.number(COUNT)
    _require_in_range(INDEX, index, COUNT, count)
    return JobPlace(index, count, "by hand", address)


def _require_in_range(name: str, index: int, count_name: str, count: int) -> None:
    if count < 1 or not 0 <= index < count:
        raise OmfaError(
            f"{name}={index} and {count_name}={count}: expected an index from 0 to the number of"
            " processes - 1"
        )


def _find_mpi(read: _Reader) -> JobPlace | None:
    for launcher, (rank, size, local_rank, local_size) in MPI.items():
        names = (rank, size, local_rank)
        if not all(read.environment.get(name) for name in names):
            continue
        index, count = read.number(rank), read.number(size)
        _require_in_range(rank, index, size, count)
        if count == 1:
            return None
        local = (read.number(local_rank), read.optional(local_size))
        return JobPlace(index, count, launcher, None, *local)
    return None


def _complete_mpi(read: _Reader, place: JobPlace) -> JobPlace:
    """Return the place with the coordinator's address, which mpirun knows on a single host only."""
    if place.local_count != place.count:
        raise OmfaError(
            f"{place.launcher} started {place.count} processes on several hosts: give them the"
            f" address of the host of rank 0, mpirun -x {ADDRESS}=HOST:PORT (Hydra: -genv {ADDRESS}"
            " HOST:PORT)"
        )
    job = next((read.environment[n] for n in MPI_JOBS if read.environment.get(n)), "")
    port = PORTS[zlib.crc32(job.encode()) % len(PORTS)]
    local = (place.local_index, place.local_count)
    return JobPlace(place.index, place.count, place.launcher, f"localhost:{port}", *local)


def _find_slurm(read: _Reader) -> JobPlace | None:
    """Return the place in a step that srun started with more than one task."""
    if "SLURM_PROCID" not in read.environment or not _is_in_step(read):
        return None
    step_count = read.optional("SLURM_STEP_NUM_TASKS")
    count = read.number("SLURM_NTASKS", 1) if step_count is None else step_count
    if count < 2:
        return None
    index = read.number("SLURM_PROCID")
    _require_in_range("SLURM_PROCID", index, "SLURM_NTASKS", count)
    layout = next(
        (
            read.environment[name]
            for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
            if read.environment.get(name)
        ),
        "",
    )
    node = read.optional("SLURM_NODEID") or 0
    local = (read.optional("SLURM_LOCALID"), count_tasks_on_node(layout, node))
    return JobPlace(index, count, "Slurm", None, *local)


def _is_in_step(read: _Reader) -> bool:
    # batch scripts and interactive shells have the job's variables, but not those of a step
    if read.environment.get("SLURM_STEP_NUM_TASKS"):
        return True
    return bool(read.environment.get("SLURM_STEP_ID")) or read.number("SLURM_PROCID", 0) > 0


def count_tasks_on_node(layout: str, node: int) -> int | None:
    """Return the tasks of a node in Slurm's notation, such as "8(x3),4"; None if it has none."""
    counts: list[int] = []
    for part in filter(None, layout.split(",")):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            return None
        counts += [int(found[1])] * min(int(found[2] or 1), 2**20)
    return counts[node] if 0 <= node < len(counts) else None


def _refuse_slurm_without_srun(read: _Reader) -> None:
    """Raise if Slurm granted several tasks and this command was started once, without srun."""
    step_count = read.optional("SLURM_STEP_NUM_TASKS")
    tasks = read.number("SLURM_NTASKS", 1)
    if tasks > 1 and (step_count in (None, 1)) and "SLURM_JOB_ID" in read.environment:
        raise OmfaError(
            f"Slurm granted {tasks} tasks, but this command runs as one: start it with srun, as"
            " launch/slurm.sh does, or ask for --ntasks=1 (or unset SLURM_NTASKS to run one"
            " process)"
        )


def _refuse_half_mpi(read: _Reader) -> None:
    """Raise if mpirun's rank or size is there without the rest, which a wrapper may have dropped.

    PMI's are left out: Slurm sets them beside its own.
    """
    for launcher, names in MPI.items():
        rank, size, local_rank, _ = names
        there = [name for name in (rank, size) if read.environment.get(name)]
        if rank.startswith("PMI_") or not there or read.optional(size) == 1:
            continue
        absent = [name for name in (rank, size, local_rank) if not read.environment.get(name)]
        raise OmfaError(
            f"{there[0]} is set, but {' and '.join(absent)} {'are' if absent[1:] else 'is'} not:"
            f" pass on all variables of {launcher}'s mpirun, or unset {' and '.join(there)} to run"
            " one process"
        )


def _refuse_torchrun(read: _Reader) -> None:
    """Raise for what other launchers set and this package does not read."""
    # WORLD_SIZE alone is often left over in the environment of a job script
    if read.environment.get("WORLD_SIZE") and any(map(read.environment.get, TORCH_PLACES)):
        count = read.number("WORLD_SIZE")
        host = "$MASTER_ADDR" if read.environment.get("MASTER_ADDR") else "HOST"
        if count > 1:
            raise OmfaError(
                f"torchrun, a PyTorchJob or a job script that sets WORLD_SIZE asks for {count}"
                f" processes, which JAX does not read: set {ADDRESS}={host}:PORT (of process 0,"
                f" a free port), {COUNT}=$WORLD_SIZE and"
                f" {INDEX}=$RANK, or start with launch/local.sh (or unset WORLD_SIZE to run one"
                " process)"
            )
    for name in ("PMIX_RANK", "PMI_RANK"):
        if read.environment.get(name) and "SLURM_PROCID" not in read.environment:
            if name == "PMI_RANK" and read.optional("PMI_SIZE") == 1:
                continue
            if name == "PMIX_RANK" and read.optional("OMPI_COMM_WORLD_SIZE") == 1:
                continue
            raise OmfaError(
                f"{name}={read.environment[name]} is an MPI launcher's, which does not say what"
                f" else is needed: set {ADDRESS}=HOST:PORT, {COUNT} and {INDEX} (or unset {name} to"
                " run one process)"
            )


def _find_tpu_slice(read: _Reader) -> JobPlace | None:
    # GKE's TPU slices: with several slices TPU_WORKER_ID counts within its own
    hosts = len(read.environment.get("TPU_WORKER_HOSTNAMES", "").split(","))
    slices = read.number("MEGASCALE_NUM_SLICES", 1)
    if hosts * slices == 1 or "TPU_WORKER_ID" not in read.environment:
        return None
    index = read.number("MEGASCALE_SLICE_ID", 0) * hosts + read.number("TPU_WORKER_ID")
    return JobPlace(index, hosts * slices, "TPU slice")
