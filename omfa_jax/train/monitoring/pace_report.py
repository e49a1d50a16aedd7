"""The waits of a job's processes in a row of the log, and a line on the one that is slow."""

import logging

import jax

from omfa_jax.parallel.activity import PaceTable, format_paces
from omfa_jax.parallel.hang_watcher import get_beats

log = logging.getLogger(__name__)


def report_paces(pace: PaceTable, step_s: float) -> dict[str, float]:
    """Return what the log says of the processes' waits, and name one that holds up the others.

    {} in a job of one process and on all processes but the first, which has the others' beats.
    """
    beats = get_beats() if jax.process_index() == 0 else {}
    if len(beats) < 2:
        return {}
    paces = pace.compare(beats)
    line = pace.describe_slowest(paces, beats, step_s)
    if line is not None:
        log.warning("%s", line)
    return format_paces(paces)
