"""The data-constrained law: the value of repeated samples and excess parameters.

Muennighoff et al. (arXiv 2305.16264), section 3. Of D samples U_D are distinct, and R_D = D/U_D - 1
is the number of repetitions; their effective number is D' = U_D + U_D R*_D (1 - exp(-R_D / R*_D)).
Parameters beyond U_N, the optimal number for U_D samples, give N' in the same way with R*_N. The
loss is that of the law at (N', D'). As in the paper, the law is first fitted to runs without
repetitions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.studies.cost_rule import CostRule
from omfa_jax.studies.law_bootstrap import LEVEL, Interval, ResampledFits
from omfa_jax.studies.law_solver import HUBER_DELTA, compute_huber
from omfa_jax.studies.loss_law import compute_loss
from omfa_jax.studies.runs_table import Runs

MIN_REPEATED_RUNS = 4  # the fewest runs with repeated samples for a fit
REPEATED_EPOCHS = 1.01  # from this number of epochs on, a run has repeated samples
LOG_RANGE = (np.log(0.05), np.log(5e3))
# of R*_D and R*_N; the paper finds 15.4 and 5.3
STARTS = (0.5, 4.0, 16.0, 100.0)
INFINITE = 1e9  # an R* without decay: repetitions count in full


@dataclass(frozen=True)
class RepeatsFit:
    """R*_D and R*_N with 95% intervals; None means not determined and taken as infinite.

    `drawn` are (log R*_D, log R*_N) of the resampled fits, in the order of those of the law.
    """

    r_samples: Interval | None
    r_params: Interval | None
    residual: Float[np.ndarray, "n"]
    drawn: Float[np.ndarray, "m 2"]
    notes: tuple[str, ...]
    refused: str | None


def compute_saturating(base: np.ndarray, total: np.ndarray, r: float | np.ndarray) -> np.ndarray:
    """Return base + base r (1 - exp(-R / r)) with R = total / base - 1 >= 0."""
    return base * (1 - r * np.expm1(-(total / base - 1) / r))


def compute_effective(
    law: Float[np.ndarray, "*m 5"],
    cost: CostRule,
    params: np.ndarray | float,
    samples: np.ndarray | float,
    unique: np.ndarray | float,
    r_samples: np.ndarray | float,
    r_params: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the effective parameters N' and samples D' of runs."""
    log_a, log_b, _, alpha, beta = (law[..., i] for i in range(5))
    distinct = np.minimum(samples, unique)
    # the optimal size for U_D samples: alpha A N^-alpha = (1 + kappa) beta B U_D^-beta
    log_best = (
        np.log(alpha / ((1 + cost.kappa) * beta)) + log_a - log_b + beta * np.log(distinct)
    ) / alpha
    fitting = np.minimum(params, np.exp(log_best))
    return compute_saturating(fitting, np.asarray(params), r_params), compute_saturating(
        distinct, np.asarray(samples), r_samples
    )


def compute_constrained_loss(
    law: Float[np.ndarray, "*m 5"],
    cost: CostRule,
    params: np.ndarray | float,
    samples: np.ndarray | float,
    unique: np.ndarray | float,
    log_r: Float[np.ndarray, "*m 2"],
) -> np.ndarray:
    """Return the loss with repeated samples; `log_r` is (log R*_D, log R*_N)."""
    r_samples, r_params = np.exp(log_r[..., 0]), np.exp(log_r[..., 1])
    return compute_loss(
        law, *compute_effective(law, cost, params, samples, unique, r_samples, r_params)
    )


def fit_repeats(runs: Runs, base: ResampledFits, cost: CostRule, *, seed: int = 0) -> RepeatsFit:
    """Fit R*_D and R*_N to the runs with repeated samples, given the law of the others.

    Intervals are percentiles over the resamples of `base`, with new noise for the repeated runs in
    each, so they include the uncertainty of the law.
    """
    runs = runs.take(runs.epochs >= REPEATED_EPOCHS)
    nothing = np.empty(0), np.empty((0, 2))
    if len(runs) < MIN_REPEATED_RUNS:
        why = (
            f"{len(runs)} usable runs have repeated samples:"
            f" {MIN_REPEATED_RUNS} are needed for R*_D"
        )
        return RepeatsFit(None, None, *nothing, (), why)
    law, target = base.fit.natural, np.log(runs.loss)
    if not (law[3] > 0 and law[4] > 0):
        return RepeatsFit(None, None, *nothing, (), "the law's exponents are not positive")
    notes = []
    # with R*_N near 0 excess parameters count for nothing, so N' is U_N at most
    n_eff, _ = compute_effective(law, cost, runs.params, runs.samples, runs.unique, INFINITE, 1e-9)
    excess = int((runs.params > 1.2 * n_eff).sum())
    free = np.array([True, excess >= 2])
    if not free[1]:
        notes.append(
            f"R*_N is not determined: {excess} repeated run(s) have over 1.2 times the optimal"
            " number of parameters for their distinct samples (2 are needed); excess parameters"
            " count in full"
        )
    start = find_best_start(law, cost, runs, target, free)
    log_r = solve_repeats(law, cost, runs, target, free, start)
    residual = target - np.log(predict_loss(law, cost, runs, log_r))
    # a second stream, independent of the noise of the base's resamples
    rng = np.random.default_rng([seed, 1])
    # repeated runs may scatter more than the others did
    noise = max(
        base.fit.noise, float(np.sqrt((residual**2).sum() / max(len(runs) - free.sum(), 1)))
    )
    laws = base.laws
    drawn = np.full((len(laws), 2), np.log(INFINITE))
    for at, one in enumerate(laws):
        # without positive exponents a law has no optimum, and its draw stays infinite
        if one[3] > 0 and one[4] > 0:
            losses = target - residual + noise * rng.standard_normal(len(runs))
            drawn[at] = solve_repeats(one, cost, runs, losses, free, log_r)
    found: list[Interval | None] = []
    for at, name in enumerate(("R*_D", "R*_N")):
        if not free[at]:
            found.append(None)
            continue
        low, high = np.quantile(drawn[:, at], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if log_r[at] > LOG_RANGE[1] - 0.1:
            notes.append(f"{name} is fitted as infinite: the runs show no decay")
        elif high > LOG_RANGE[1] - 0.1:
            notes.append(f"the data gives no upper bound for {name}")
        found.append(Interval(*(float(np.exp(value)) for value in (log_r[at], low, high))))
    return RepeatsFit(found[0], found[1], residual, drawn, tuple(notes), None)


def predict_loss(law: np.ndarray, cost: CostRule, runs: Runs, log_r: np.ndarray) -> np.ndarray:
    """Return the predicted losses of runs with repeated samples."""
    return compute_constrained_loss(law, cost, runs.params, runs.samples, runs.unique, log_r)


def find_best_start(
    law: np.ndarray, cost: CostRule, runs: Runs, target: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Return the best L-BFGS solution from a grid of starts."""
    ends = []
    for r_samples in STARTS:
        for r_params in STARTS if free[1] else (INFINITE,):
            start = np.log([r_samples, r_params])
            end = solve_repeats(law, cost, runs, target, free, start)
            value = compute_huber(np.log(predict_loss(law, cost, runs, end)) - target).sum()
            ends.append((float(value), end))
    return min(ends, key=lambda end: end[0])[1]


def solve_repeats(
    law: np.ndarray,
    cost: CostRule,
    runs: Runs,
    target: np.ndarray,
    free: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """Return the (log R*_D, log R*_N) that minimise the Huber loss, by L-BFGS from a start."""
    from scipy.optimize import minimize

    # brings the objective to the order of 1, which the tolerances of L-BFGS-B assume
    scale = 1 / (HUBER_DELTA**2 * len(runs))

    def objective(part: np.ndarray) -> float:
        log_r = start.copy()
        log_r[free] = part
        return scale * float(
            compute_huber(np.log(predict_loss(law, cost, runs, log_r)) - target).sum()
        )

    bounds = [LOG_RANGE] * int(free.sum())
    found = minimize(objective, start[free], method="L-BFGS-B", bounds=bounds)
    log_r = start.copy()
    log_r[free] = found.x
    return log_r
