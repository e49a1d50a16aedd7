"""Decisions about checkpoints that all processes of a job take alike."""

import errno
import json
import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.distributed import allgather_int
from omfa_jax.train.checkpoints.integrity import DamagedCheckpointError

RunResult = TypeVar("RunResult")


def run_on_all_processes(work: Callable[[], RunResult]) -> RunResult | DamagedCheckpointError:
    """Run `work` on every process; DamagedCheckpointError on one is raised on all.

    Any other error that one process raises is raised by all. Without that agreement some would
    restore one step and some another, and the job would hang in the next collective.
    """
    made, met = None, None
    try:
        made = work()
    except (OmfaError, OSError) as error:
        met = error
    # one integer per process: 0, an errno, or one of these two, which no errno is
    damaged, refused = -1, -2
    code = 0
    if isinstance(met, OSError):
        code = met.errno or errno.EIO
    elif met is not None:
        code = damaged if isinstance(met, DamagedCheckpointError) else refused
    codes = allgather_int(code)
    if met is not None and code != damaged:
        raise met
    # before damage: a step that one process could not reach is not known to be damaged
    failed = [number for number, other in enumerate(codes) if other not in (0, damaged)]
    if failed:
        where, other = failed[0], codes[failed[0]]
        if other == refused:
            raise OmfaError(f"process {where} cannot restore this checkpoint; see its log")
        raise OSError(other, f"{os.strerror(other)} (in process {where}: see its log)")
    if damaged in codes:
        where = codes.index(damaged)
        return (
            met
            if isinstance(met, DamagedCheckpointError)
            else DamagedCheckpointError(f"process {where} cannot read it")
        )
    return made  # type: ignore[return-value]


def broadcast_from_first(work: Callable[[], list[int]]) -> list[int]:
    """Run `work` on process 0 and return its list on every process."""
    first = jax.process_index() == 0
    made = run_on_all_processes(work if first else list)
    assert not isinstance(made, DamagedCheckpointError)
    if jax.process_count() == 1:
        return made
    from jax.experimental import multihost_utils

    # the broadcast needs equal shapes on all processes: the length first, then padded bytes
    text = json.dumps(made).encode() if first else b""
    length = max(allgather_int(len(text)))
    padded = np.frombuffer(text.ljust(length), np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
