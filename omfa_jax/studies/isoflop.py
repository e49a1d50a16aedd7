"""IsoFLOP parabolas: the best size at each budget, and its power law (Hoffmann, approach 2)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from omfa_jax.studies.law_bootstrap import LEVEL, Interval
from omfa_jax.studies.run_cleaning import count_distinct
from omfa_jax.studies.runs_table import Runs

MIN_SIZES = 4  # a parabola through three points leaves no residual


@dataclass(frozen=True)
class Parabola:
    """loss = c0 + c1 x + c2 x^2 in x = log(params) - center, over the runs of one budget.

    `refused` is the reason why the power law does not use it, or None.
    """

    flops: float
    rows: Int[np.ndarray, "g"]
    center: float
    coefficients: Float[np.ndarray, "3"]
    log_params: float
    log_samples: float
    loss: float
    refused: str | None


@dataclass(frozen=True)
class IsoFlop:
    """The parabolas and the power laws N_opt ~ C^a, D_opt ~ C^b (None below two parabolas)."""

    tolerance: float
    parabolas: tuple[Parabola, ...]
    alone: int
    a: Interval | None
    b: Interval | None
    sum: Interval | None
    lines: tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]] | None
    refused: str | None


def group_by_budget(flops: Float[np.ndarray, "n"], tolerance: float) -> list[Int[np.ndarray, "g"]]:
    """Return the rows grouped by budget, within a factor 1 + tolerance of its central run.

    Greedy: the run with the most neighbours within the tolerance becomes a centre, and its group is
    removed, until no run is left. Groups are sorted by budget.
    """
    logs, reach = np.log(flops), np.log1p(tolerance)
    left = np.arange(len(flops))
    found = []
    while len(left):
        # the margin keeps runs at exactly the tolerance, which logarithms round
        near = np.abs(logs[left][:, None] - logs[left]) <= reach + 1e-12
        chosen = near[int(np.argmax(near.sum(1)))]
        found.append(left[chosen])
        left = left[~chosen]
    return sorted(found, key=lambda rows: float(logs[rows].mean()))


def fit_parabola(x: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return a parabola's coefficients, its minimum's x, and the variance of that x / noise^2."""
    columns = np.stack([np.ones_like(x), x, x**2], axis=1)
    inverse = np.linalg.inv(columns.T @ columns)
    c = inverse @ columns.T @ loss
    # a straight line has no minimum
    if abs(c[2]) < 1e-15:
        return c, float("nan"), float("nan")
    # the gradient of -c1 / (2 c2): propagation of error
    slopes = np.array([0.0, -1 / (2 * c[2]), c[1] / (2 * c[2] ** 2)])
    return c, float(-c[1] / (2 * c[2])), float(slopes @ inverse @ slopes)


def fit_isoflop(runs: Runs, *, tolerance: float = 0.1, power: float = 1.0) -> IsoFlop:
    """Fit a parabola to the runs of every budget, and power laws to their minima.

    D_opt comes from a separate parabola in log D, so that a + b = 1 is a check. Budgets are
    weighted by the inverse variance of their minima, with one noise level for all of them; if they
    scatter more than that about the power law, its error is taken from the scatter. `sum` is
    power a + b, which is 1 if FLOPs = k N^power D.
    """
    from scipy import stats

    parabolas, alone = [], 0
    squares, freedoms, variances = 0.0, 0, []
    for rows in group_by_budget(runs.flops, tolerance):
        if len(rows) < 2:
            alone += 1
            continue
        sizes = np.log(runs.params[rows])
        count = min(count_distinct(runs.params[rows]), count_distinct(runs.samples[rows]))
        flops = float(np.exp(np.log(runs.flops[rows]).mean()))
        if count < MIN_SIZES:
            nothing = np.full(3, np.nan)
            why = f"{count} model size(s), but a parabola needs {MIN_SIZES}"
            blank = float("nan")
            parabolas.append(
                Parabola(
                    flops=flops,
                    rows=rows,
                    center=blank,
                    coefficients=nothing,
                    log_params=blank,
                    log_samples=blank,
                    loss=blank,
                    refused=why,
                )
            )
            continue
        # centred, because log N near 20 makes the normal equations ill-conditioned
        center = float(sizes.mean())
        c, best, spread_n = fit_parabola(sizes - center, runs.loss[rows])
        amounts = np.log(runs.samples[rows])
        c_d, best_d, spread_d = fit_parabola(amounts - amounts.mean(), runs.loss[rows])
        best, best_d = best + center, best_d + float(amounts.mean())
        why = None
        if c[2] <= 0 or c_d[2] <= 0:
            why = "opens downward: no minimum"
        elif not sizes.min() < best < sizes.max() or not amounts.min() < best_d < amounts.max():
            side = "smaller" if best <= sizes.min() else "larger"
            why = f"its minimum is outside its runs: {side} models at this budget are needed"
        least = float(c[0] - c[1] ** 2 / (4 * c[2])) if c[2] else float("nan")
        parabolas.append(
            Parabola(
                flops=flops,
                rows=rows,
                center=center,
                coefficients=c,
                log_params=best,
                log_samples=best_d,
                loss=least,
                refused=why,
            )
        )
        if why is None:
            residual = runs.loss[rows] - np.polynomial.polynomial.polyval(sizes - center, c)
            squares += float(residual @ residual)
            # a parabola has three coefficients
            freedoms += len(rows) - 3
            variances.append((spread_n, spread_d))
    used = [p for p in parabolas if p.refused is None]
    if len(used) < 2:
        why = f"{len(used)} budget(s) with a usable parabola: a power law needs 2"
        return IsoFlop(
            tolerance=tolerance,
            parabolas=tuple(parabolas),
            alone=alone,
            a=None,
            b=None,
            sum=None,
            lines=None,
            refused=why,
        )
    logs = np.log([p.flops for p in used])
    noise = np.sqrt(squares / freedoms)
    found, reaches, lines = [], [], []
    for values, variance in (
        ([p.log_params for p in used], [v[0] for v in variances]),
        ([p.log_samples for p in used], [v[1] for v in variances]),
    ):
        slope, error, free, line = fit_power_law(
            logs, np.array(values), noise, np.array(variance), freedoms
        )
        reach = float(stats.t.ppf((1 + LEVEL) / 2, free)) * error
        found.append(Interval(slope, slope - reach, slope + reach))
        reaches.append(reach)
        lines.append(line)
    total = power * found[0].estimate + found[1].estimate
    # a and b have opposite errors, as they come from the same losses: this sum is too wide
    reach = float(np.hypot(power * reaches[0], reaches[1]))
    both = Interval(total, total - reach, total + reach)
    return IsoFlop(
        tolerance=tolerance,
        parabolas=tuple(parabolas),
        alone=alone,
        a=found[0],
        b=found[1],
        sum=both,
        lines=(lines[0], lines[1]),
        refused=None,
    )


def fit_power_law(
    x: Float[np.ndarray, "k"],
    y: Float[np.ndarray, "k"],
    noise: float,
    variance: Float[np.ndarray, "k"],
    freedoms: int,
) -> tuple[float, float, float, Float[np.ndarray, "2"]]:
    """Return the slope of y on x, its standard error, their degrees of freedom and the line.

    The line is (intercept, slope).
    """
    # the bound keeps weights finite for exact data
    weight = 1 / np.maximum(noise**2 * variance, 1e-24)
    columns = np.stack([np.ones_like(x), x], axis=1)
    normal = columns.T @ (weight[:, None] * columns)
    line = np.linalg.solve(normal, columns.T @ (weight * y))
    own = float(np.sqrt(np.linalg.inv(normal)[1, 1]))
    if len(x) < 3:
        return float(line[1]), own, freedoms, line
    scatter = float((weight * (y - columns @ line) ** 2).sum() / (len(x) - 2))
    # less scatter than the noise explains is luck, and does not narrow the interval
    if scatter <= 1:
        return float(line[1]), own, freedoms, line
    return float(line[1]), own * float(np.sqrt(scatter)), len(x) - 2, line
