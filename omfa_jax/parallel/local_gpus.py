"""Which GPUs of its host a process uses: all that it sees, or its share of them."""

import os
from collections.abc import Mapping
from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.job_place import JobPlace

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def choose_local_gpus(
    place: JobPlace, environment: Mapping[str, str] = os.environ
) -> list[int] | None:
    """Return the indices, among the visible GPUs, of those that this process uses.

    None leaves the choice to jax: without GPUs, or if JAX_LOCAL_DEVICE_IDS makes it. jax's own
    choice under Slurm is one GPU per task, whatever the task sees. Raises an OmfaError if the
    processes of this host cannot share its GPUs evenly.
    """
    seen, count = count_visible_gpus(environment), place.local_count
    chosen = environment.get("JAX_LOCAL_DEVICE_IDS")
    if not seen or chosen or environment.get("JAX_PLATFORMS") == "cpu":
        return None
    if count is None:
        # by hand every process uses what it sees; a Slurm too old to say leaves it to jax
        return [0] if seen == 1 else None
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    total = int(on_node) if on_node.isdigit() else seen
    if on_node.isdigit() and total < count:
        raise OmfaError(
            f"{count} tasks of this host share {total} GPU{'s' * (total > 1)}: ask for at least one"
            " GPU per task (--gpus-per-task=1), or for fewer tasks"
        )
    # a process that sees fewer than the others have together sees its own
    own = seen < max(total, count) or "SLURM_GPUS_PER_TASK" in environment
    if count == 1 or own or place.local_index is None:
        return list(range(seen))
    if seen % count:
        raise OmfaError(
            f"{count} processes of this host cannot share {seen} GPUs evenly: ask for a number of"
            " processes that divides it"
        )
    index = place.local_index
    share = seen // count
    return list(range(index * share, (index + 1) * share))


def count_visible_gpus(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of GPUs that this process may see; 0 if there are none.

    Nothing is asked of a driver: devices must not be touched before `jax.distributed` has started.
    """
    for name in VISIBLE:
        if name in environment:
            names = [part for part in environment[name].split(",") if part.strip()]
            # CUDA ignores what follows an invalid entry: -1 hides all GPUs
            hidden = next((i for i, part in enumerate(names) if part.startswith("-")), len(names))
            return 0 if names[:1] == ["NoDevFiles"] else hidden
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
