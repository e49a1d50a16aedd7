"""Which checkpoints are kept: the last few, one every N steps, and the best over all restarts."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orbax.checkpoint.checkpoint_managers import PreservationPolicy
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from omfa_jax.core.paths import AnyPath
from omfa_jax.train.checkpoints.integrity import ROW_ITEM, DamagedCheckpointError, read_json
from omfa_jax.train.settings import KeepSettings

log = logging.getLogger(__name__)


def make_preservation_policy(keep: KeepSettings, folder: AnyPath) -> PreservationPolicy:
    """Return Orbax's policy for the settings; a checkpoint is kept if any rule keeps it."""
    policies: list[PreservationPolicy] = [policy.LatestN(keep.last)]
    if keep.every_steps:
        policies.append(policy.EveryNSteps(keep.every_steps))
    if keep.best_of:
        policies.append(KeepBest(keep.best_of, folder))
    return policy.AnyPreservationPolicy(policies)


class KeepBest(PreservationPolicy):
    """Keeps the checkpoint in `folder` whose row of the log has the lowest `metric`.

    Ties go to the earliest. A missing or non-finite metric is never the best. Rows from before a
    restart are read from the checkpoints, because Orbax does not pass them to a policy. Its own
    `BestN` misorders NaN and never deletes checkpoints without the metric.
    """

    def __init__(self, metric: str, folder: AnyPath):
        self._metric, self._folder = metric, folder
        self._read: dict[int, Mapping[str, Any]] = {}

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: policy.PreservationContext
    ) -> list[bool]:
        """Return which checkpoints to keep: the best, and those whose row cannot be read now."""
        rows = [self._row(info.step, info.metrics) for info in checkpoints]
        scores = [math.inf if row is None else get_score(row, self._metric) for row in rows]
        best = min(scores, default=math.inf)
        kept = scores.index(best) if best < math.inf else None
        return [row is None or place == kept for place, row in enumerate(rows)]

    def _row(self, step: int, saved_now: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if saved_now is not None:
            return saved_now
        if step not in self._read:
            try:
                self._read[step] = read_row(self._folder / str(step))
            except OSError as error:
                # deleting is final: a row that cannot be read now may be the best one
                log.warning("checkpoint %s is kept: %s", self._folder / str(step), error)
                return None
        return self._read[step]


def get_score(row: Mapping[str, Any], metric: str) -> float:
    """Return a row's metric, infinity if it is missing or not finite."""
    value = row.get(metric)
    # a bool is an int in Python
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.inf
    try:
        found = float(value)
    except OverflowError:
        # JSON integers may exceed a float's range
        return math.inf
    return found if math.isfinite(found) else math.inf


def read_row(step_folder: AnyPath) -> Mapping[str, Any]:
    """Return the row of the log saved with a checkpoint; empty if there is none.

    Raises OSError if the file system fails, since the row may exist.
    """
    try:
        return read_json(step_folder, ROW_ITEM)
    except DamagedCheckpointError:
        return {}


def to_json_row(row: Mapping[str, float]) -> dict[str, float | None]:
    """Return a row of the log for JSON: non-finite numbers become null."""
    # JSON has no NaN or infinity, and Python's own spelling of them is rejected by other readers
    numbers = {name: float(value) for name, value in row.items()}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
