"""The envelope of all runs: the best size seen at each compute (Hoffmann et al., approach 1)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from omfa_jax.scaling.bootstrap import LEVEL, Interval
from omfa_jax.scaling.table import Runs

LEAST = 4
# budgets that are rounded to whole batches differ by about a percent
TIE = 1.02
DECADE = np.log(10.0)


@dataclass(frozen=True)
class Envelope:
    """Rows that no run as cheap beats (within 2% of FLOPs), and the power laws through them.

    The intervals are the regression's own. Sizes come from the table's grid, so a coarse grid
    biases them in a way that no interval shows.
    """

    rows: Int[np.ndarray, "m"]
    a: Interval | None
    b: Interval | None
    lines: tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]] | None
    refused: str | None


def fit_envelope(runs: Runs) -> Envelope:
    """Find the envelope and regress log N and log D on log C along it."""
    from scipy import stats

    order = np.lexsort((runs.loss, runs.flops))
    loss, flops = runs.loss[order], runs.flops[order]
    least = np.minimum.accumulate(loss)
    lower = loss < np.concatenate(([np.inf], least[:-1]))
    among_equals = least[np.searchsorted(flops, TIE * flops, side="right") - 1]
    rows = order[lower & (loss <= among_equals)]
    logs = np.log(runs.flops[rows])
    if len(rows) < LEAST or np.ptp(logs) < DECADE:
        why = (
            f"{len(rows)} runs on the envelope over a factor {np.exp(np.ptp(logs)):.3g} of compute:"
            f" {LEAST} runs over a factor 10 are needed"
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
