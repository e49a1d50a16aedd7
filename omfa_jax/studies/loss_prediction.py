"""Predictions of a fitted law: optimal sizes for budgets, new runs, and held-out large runs."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.studies.cost_rule import CostRule
from omfa_jax.studies.law_bootstrap import LEVEL, Interval, ResampledFits
from omfa_jax.studies.loss_law import compute_loss, compute_optimum, fit_law
from omfa_jax.studies.repeated_samples import INFINITE, RepeatsFit, compute_constrained_loss
from omfa_jax.studies.run_cleaning import find_obstacle
from omfa_jax.studies.runs_table import Runs

MAX_EXTRAPOLATION = 10.0  # times the largest compute in the table


@dataclass(frozen=True)
class Optimum:
    """The optimal parameters and samples for a budget, and the loss there.

    `beyond` is the budget divided by the largest compute in the table.
    """

    flops: float
    params: Interval
    samples: Interval
    loss: Interval
    beyond: float
    notes: tuple[str, ...]


def predict_optimum(resampled: ResampledFits, cost: CostRule, flops: float, runs: Runs) -> Optimum:
    """Return the optimum for a budget by the law, without repeated samples."""

    def at_optimum(laws: np.ndarray) -> tuple[np.ndarray, ...]:
        log_n, log_d = compute_optimum(laws, cost, flops)
        return np.exp(log_n), np.exp(log_d), compute_loss(laws, np.exp(log_n), np.exp(log_d))

    params, samples, loss = (
        resampled.compute_interval(lambda laws, at=at: at_optimum(laws)[at], positive=True)
        for at in range(3)
    )
    beyond = float(flops / runs.flops.max())
    notes = []
    if beyond > MAX_EXTRAPOLATION:
        notes.append(format_extrapolation(beyond))
    if params.estimate < runs.params.min():
        notes.append("smaller than every model in the table")
    if None in (params.low, samples.low, loss.low):
        notes.append("no interval: too many resampled fits have no optimum")
    return Optimum(
        flops=flops,
        params=params,
        samples=samples,
        loss=loss,
        beyond=beyond,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Prediction:
    """The predicted loss of a run that is not in the table, without repeated samples.

    `loss` has the confidence interval of the law, `run` the prediction interval of a single run,
    which includes its noise. `beyond` is the run's compute divided by the largest in the table.
    """

    params: float
    samples: float
    flops: float
    loss: Interval
    run: Interval
    beyond: float
    notes: tuple[str, ...]


def predict_run(
    resampled: ResampledFits, cost: CostRule, params: float, samples: float, runs: Runs
) -> Prediction:
    """Return the predicted loss of a run."""
    from scipy import stats

    fit, at = resampled.fit, (np.array(params), np.array(samples))
    loss = resampled.compute_interval(lambda laws: compute_loss(laws, *at), positive=True)
    run = loss
    if loss.low is not None and loss.high is not None:
        freedoms = len(fit.log_loss) - int(fit.design.free.sum())
        # Student's t, because the noise is estimated from few residuals
        noise = float(stats.t.ppf((1 + LEVEL) / 2, freedoms)) * fit.noise
        # the errors of the law and of the run are independent
        down, up = (np.hypot(np.log(loss.estimate / end), noise) for end in (loss.low, loss.high))
        run = Interval(
            loss.estimate, float(loss.estimate * np.exp(-down)), float(loss.estimate * np.exp(up))
        )
    # for a size of the table, use its FLOPs per sample instead of the fitted rule
    same = np.flatnonzero(runs.params == params)
    if len(same):
        flops = float(runs.flops[same[0]] / runs.samples[same[0]] * samples)
    else:
        flops = float(cost.compute_flops(*at))
    beyond = flops / float(runs.flops.max())
    notes = [format_extrapolation(beyond)] if beyond > MAX_EXTRAPOLATION else []
    for name, value, known in (
        ("parameters", params, runs.params),
        ("samples", samples, runs.samples),
    ):
        if value < known.min():
            ratio = value / known.min()
            notes.append(f"{ratio:.3g} times the smallest number of {name} in the table")
        elif value > known.max():
            ratio = value / known.max()
            notes.append(f"{ratio:.3g} times the largest number of {name} in the table")
    return Prediction(
        params=params,
        samples=samples,
        flops=flops,
        loss=loss,
        run=run,
        beyond=beyond,
        notes=tuple(notes),
    )


def format_extrapolation(beyond: float) -> str:
    """Return the note about compute far above that of the table."""
    return (
        f"{beyond:.3g} times the largest compute in the table: the interval assumes that the"
        " law still holds there, which the table cannot show"
    )


def predict_optimum_with_repeats(
    resampled: ResampledFits,
    repeats: RepeatsFit,
    cost: CostRule,
    flops: float,
    unique: float,
    runs: Runs,
) -> Optimum:
    """Return the optimum for a budget with `unique` distinct samples; intervals are percentiles."""
    plain = float(compute_optimum(resampled.fit.natural, cost, flops)[0])
    # with scarce samples the optimum may be a smaller or a larger model, so search both ways
    grid = plain + np.linspace(-3, 4, 701)
    params = np.exp(grid)
    samples = cost.compute_samples(params, flops)
    found = (repeats.r_samples, repeats.r_params)
    # a constant that is not determined counts as no decay
    log_r = np.log([INFINITE if one is None else one.estimate for one in found])

    def lowest(law: np.ndarray, log_r: np.ndarray) -> tuple[float, float, float]:
        losses = compute_constrained_loss(law, cost, params, samples, unique, log_r)
        at = int(np.argmin(losses))
        return float(params[at]), float(samples[at]), float(losses[at])

    own = lowest(resampled.fit.natural, log_r)
    drawn = np.array(
        [
            lowest(law, log_r)
            for law, log_r in zip(resampled.laws, repeats.drawn, strict=True)
            if law[3] > 0 and law[4] > 0
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = [
        Interval(value, min(float(a), value), max(float(b), value))
        for value, a, b in zip(own, low, high, strict=True)
    ]
    epochs = own[1] / unique
    return Optimum(
        flops=flops,
        params=found[0],
        samples=found[1],
        loss=found[2],
        beyond=float(flops / runs.flops.max()),
        notes=(f"{unique:.4g} distinct samples, seen {max(epochs, 1):.3g} times",),
    )


@dataclass(frozen=True)
class HoldOut:
    """How well a law fitted to the runs with less compute predicts those with the most.

    `errors` are log(measured / predicted) of the held-out runs, `inside` those of the fitted runs.
    """

    lines: tuple[int, ...]
    predicted: Float[np.ndarray, "h"]
    errors: Float[np.ndarray, "h"]
    inside: Float[np.ndarray, "n"]
    beyond: float
    refused: str | None

    @property
    def rms(self) -> float:
        """Root mean square error of log loss."""
        return float(np.sqrt(np.mean(self.errors**2)))


def fit_hold_out(runs: Runs, *, share: float = 0.2, irreducible: bool = True) -> HoldOut:
    """Fit all runs but the `share` with the most compute, and predict those."""
    order = np.sort(runs.flops)
    first = order[min(int(np.ceil(len(runs) * (1 - share))), len(runs) - 1)]
    # runs of one budget differ slightly, by rounding to full batches; keep them together
    held = runs.flops >= first * 0.98
    rest, large = runs.take(~held), runs.take(held)
    why = find_obstacle(rest, unknowns=5 if irreducible else 4)
    if why is not None:
        empty = np.empty(0)
        why = f"without the {len(large)} largest runs: {why}"
        return HoldOut(
            lines=(), predicted=empty, errors=empty, inside=empty, beyond=1.0, refused=why
        )
    fit = fit_law(rest, irreducible=irreducible)
    predicted = compute_loss(fit.natural, large.params, large.samples)
    return HoldOut(
        lines=tuple(int(line) for line in large.line),
        predicted=predicted,
        errors=np.log(large.loss / predicted),
        inside=fit.residual,
        beyond=float(large.flops.max() / rest.flops.max()),
        refused=None,
    )
