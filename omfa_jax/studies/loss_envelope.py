"""The envelope of all runs: the best size at each compute (Hoffmann et al., approach 1)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from omfa_jax.studies.isoflop import group_by_budget
from omfa_jax.studies.law_bootstrap import LEVEL, Interval
from omfa_jax.studies.runs_table import Runs

MIN_RUNS = 4
# runs of one budget differ in FLOPs, because samples are rounded to full batches
BUDGET_TOLERANCE = 0.03
DECADE = np.log(10.0)


@dataclass(frozen=True)
class Envelope:
    """The best run of each budget (within 3%) that no cheaper run beats, and the power laws.

    The intervals are those of the regression. The sizes are those of the table's grid, and the bias
    of a coarse grid is not in the intervals.
    """

    rows: Int[np.ndarray, "m"]
    a: Interval | None
    b: Interval | None
    lines: tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]] | None
    refused: str | None


def fit_envelope(runs: Runs) -> Envelope:
    """Find the envelope and regress its log N and log D on log C."""
    from scipy import stats

    rows, best = [], np.inf
    for budget in group_by_budget(runs.flops, BUDGET_TOLERANCE):
        at = budget[int(np.argmin(runs.loss[budget]))]
        if runs.loss[at] < best:
            rows.append(int(at))
            best = runs.loss[at]
    rows = np.array(rows, dtype=int)
    logs = np.log(runs.flops[rows])
    if len(rows) < MIN_RUNS or np.ptp(logs) < DECADE:
        why = (
            f"{len(rows)} runs on the envelope, spanning a factor of {np.exp(np.ptp(logs)):.3g} in"
            f" compute; at least {MIN_RUNS} runs and a factor of 10 are needed"
        )
        return Envelope(rows, None, None, None, why)
    found, lines = [], []
    for values in (runs.params, runs.samples):
        y, x, free = np.log(values[rows]), logs - logs.mean(), len(rows) - 2
        slope = float(x @ y / (x @ x))
        residual = y - y.mean() - slope * x
        error = float(np.sqrt(residual @ residual / free / (x @ x)))
        reach = float(stats.t.ppf((1 + LEVEL) / 2, free)) * error
        found.append(Interval(slope, slope - reach, slope + reach))
        lines.append(np.array([y.mean() - slope * logs.mean(), slope]))
    return Envelope(rows, found[0], found[1], (lines[0], lines[1]), None)
