"""The complete fit of a table of runs: cleaning, the three approaches, and predictions."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.studies.cost_rule import CostRule, fit_cost_rule
from omfa_jax.studies.isoflop import IsoFlop, fit_isoflop
from omfa_jax.studies.law_bootstrap import Interval, ResampledFits, resample_fits
from omfa_jax.studies.loss_envelope import Envelope, fit_envelope
from omfa_jax.studies.loss_law import (
    COEFFICIENTS,
    LawFit,
    compute_exponents,
    find_doubts,
    fit_law,
    get_coefficient,
)
from omfa_jax.studies.loss_prediction import (
    HoldOut,
    Optimum,
    Prediction,
    fit_hold_out,
    predict_optimum,
    predict_optimum_with_repeats,
    predict_run,
)
from omfa_jax.studies.repeated_samples import REPEATED_EPOCHS, RepeatsFit, fit_repeats
from omfa_jax.studies.run_cleaning import CleaningRules, clean_runs, find_obstacle
from omfa_jax.studies.runs_table import ExcludedRun, Runs, RunsTable

OUTLIER_DEVIATIONS = 6.0  # in robust standard deviations
MAD = 1.4826  # standard deviation of a normal distribution / its median absolute deviation


@dataclass(frozen=True)
class LawFitSettings:
    """The settings of a fit; each has a flag in `omfa scaling fit`."""

    rules: CleaningRules = field(default_factory=CleaningRules)
    irreducible: bool = True
    resamples: int = 500
    seed: int = 0
    isoflop_tolerance: float = 0.1
    hold_out: float = 0.2
    budgets: tuple[float, ...] = ()
    unique: float | None = None
    predict: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ScalingFit:
    """A table's runs and everything fitted to them; None for parts that the runs do not support.

    `refused` is the reason if there is no law. `fresh` are the runs without repeated samples, which
    the law is fitted to; `runs` includes the others.
    """

    table: RunsTable
    settings: LawFitSettings
    runs: Runs
    fresh: Runs
    excluded: tuple[ExcludedRun, ...]
    warnings: tuple[str, ...]
    cost: CostRule
    refused: str | None
    resampled: ResampledFits | None
    isoflop: IsoFlop
    envelope: Envelope
    held_out: HoldOut | None
    repeats: RepeatsFit | None
    optima: tuple[Optimum, ...]
    predictions: tuple[Prediction, ...]

    @property
    def fit(self) -> LawFit | None:
        """The fit of the law, None if refused."""
        return None if self.resampled is None else self.resampled.fit

    @property
    def coefficients(self) -> dict[str, Interval]:
        """A, B, E, alpha and beta, and the exponents a and b of the optimum."""
        found: dict[str, Interval] = {}
        if self.resampled is None:
            return found
        for name in COEFFICIENTS:
            if name == "E" and not self.resampled.fit.irreducible:
                found[name] = Interval(0.0, None, None)
                continue
            positive = name not in ("alpha", "beta", "E")
            one = self.resampled.compute_interval(
                lambda laws, name=name: get_coefficient(laws, name), positive=positive
            )
            # losses are positive, so E below 0 has no meaning
            if name == "E" and one.low is not None:
                one = dataclasses.replace(one, low=max(one.low, 0.0))
            found[name] = one
        for at, name in enumerate("ab"):
            found[name] = self.resampled.compute_interval(
                lambda laws, at=at: compute_exponents(laws, self.cost)[at]
            )
        return found


def fit_scaling(table: RunsTable, settings: LawFitSettings) -> ScalingFit:
    """Clean a table and fit everything that its runs support."""
    for name, value, low, high in (
        ("--hold-out", settings.hold_out, 0, 0.9),
        ("--isoflop-tolerance", settings.isoflop_tolerance, 0, 1),
    ):
        if not low < value < high:
            raise OmfaError(f"{name} must be in ({low}, {high}), got {value:g}")
    if settings.seed < 0:
        raise OmfaError(f"--seed must be 0 or more, got {settings.seed}")
    if settings.resamples < 100:
        raise OmfaError(
            f"--resamples must be 100 or more for a 95% interval, got {settings.resamples}"
        )
    for name, values in (
        ("--budget", settings.budgets),
        ("--dataset-size", (settings.unique,)),
        ("--predict", [number for run in settings.predict for number in run]),
    ):
        for value in values:
            if value is not None and not (np.isfinite(value) and value > 0):
                raise OmfaError(f"{name} must be above 0, got {value:g}")
    runs, excluded, warnings = clean_runs(table.runs, settings.rules)
    excluded = [*table.excluded, *excluded]
    if not len(runs):
        reasons = sorted({one.reason for one in excluded})
        raise OmfaError(f"no usable runs: {'; '.join(reasons[:4])}")
    # the law has no term for repeated samples
    fresh = runs.take(runs.epochs < REPEATED_EPOCHS)
    unknowns = 5 if settings.irreducible else 4
    fitted, refused = None, find_obstacle(fresh, unknowns=unknowns)
    if refused is None:
        fitted = fit_law(fresh, irreducible=settings.irreducible)
        # outliers are relative to a fit, so they are found after a first one
        if settings.rules.outlier_mad is not None:
            fresh, runs, more = drop_outliers(fresh, runs, fitted, settings.rules.outlier_mad)
            excluded += more
            refused = find_obstacle(fresh, unknowns=unknowns)
            if more and refused is None:
                fitted = fit_law(fresh, irreducible=settings.irreducible)
    if len(fresh) < len(runs):
        warnings.append(
            f"{len(runs) - len(fresh)} runs have repeated samples: only the data-constrained law is"
            " fitted to them"
        )
    if refused is not None and len(fresh) < len(runs):
        refused = f"of the {len(fresh)} runs without repeated samples: {refused}"
    cost = fit_cost_rule(fresh if len(fresh) else runs)
    if cost.spread > 0.1:
        warnings.append(
            f"FLOPs are not a power law of parameters and samples (off by {cost.spread:.0%}): check"
            " the flops column, or give --flops-per-param-sample"
        )
    resampled = held = repeats = None
    optima: list[Optimum] = []
    predictions: list[Prediction] = []
    if fitted is not None and refused is None:
        warnings += find_doubts(fitted)
        if len(fresh) < 2 * unknowns:
            warnings.append(
                f"{len(fresh)} runs for {unknowns} coefficients: the noise level is uncertain"
            )
        resampled = resample_fits(fitted, count=settings.resamples, seed=settings.seed)
        warnings += find_weak_terms(resampled) + warn_about_outliers(fitted, fresh)
        held = fit_hold_out(fresh, share=settings.hold_out, irreducible=settings.irreducible)
        optima += [predict_optimum(resampled, cost, flops, fresh) for flops in settings.budgets]
        predictions += [predict_run(resampled, cost, n, d, fresh) for n, d in settings.predict]
        if (runs.epochs >= REPEATED_EPOCHS).any():
            repeats = fit_repeats(runs, resampled, cost, seed=settings.seed)
        if settings.unique is not None:
            if repeats is None or repeats.refused is not None:
                why = "no run has repeated samples" if repeats is None else repeats.refused
                raise OmfaError(f"--dataset-size needs the data-constrained law: {why}")
            optima += [
                predict_optimum_with_repeats(
                    resampled, repeats, cost, flops, settings.unique, fresh
                )
                for flops in settings.budgets
            ]
    return ScalingFit(
        table=table,
        settings=settings,
        runs=runs,
        fresh=fresh,
        excluded=tuple(sorted(excluded, key=lambda one: one.line)),
        warnings=tuple(warnings),
        cost=cost,
        refused=refused,
        resampled=resampled,
        # these need no law, so a table of repeated runs alone gets them as well
        isoflop=fit_isoflop(
            fresh if len(fresh) else runs,
            tolerance=settings.isoflop_tolerance,
            power=1 + cost.kappa,
        ),
        envelope=fit_envelope(fresh if len(fresh) else runs),
        held_out=held,
        repeats=repeats,
        optima=tuple(optima),
        predictions=tuple(predictions),
    )


def find_weak_terms(resampled: ResampledFits) -> list[str]:
    """Return warnings about exponents whose intervals include 0."""
    found = []
    for name in ("alpha", "beta"):
        one = resampled.compute_interval(lambda laws, name=name: get_coefficient(laws, name))
        if one.low is None or one.low <= 0:
            found.append(
                f"WEAK: the interval of {name} includes 0, so the runs do not determine this term:"
                " add runs, or runs further apart, before using the law"
            )
    return found


def compute_robust_deviation(fitted: LawFit) -> float:
    """Return the standard deviation of log loss from the residuals' median absolute value."""
    count, unknowns = len(fitted.residual), int(fitted.design.free.sum())
    return MAD * float(np.median(np.abs(fitted.residual))) * count / max(count - unknowns, 1)


def warn_about_outliers(fitted: LawFit, fresh: Runs) -> list[str]:
    """Return a warning about runs so far off the law that they dominate the intervals."""
    off = np.abs(fitted.residual)
    # the floor of 1e-6 keeps exact data, as in tests, free of warnings
    far = np.flatnonzero(off > max(OUTLIER_DEVIATIONS * compute_robust_deviation(fitted), 1e-6))
    if not len(far):
        return []
    worst = far[np.argsort(-off[far])]
    lines = ", ".join(f"{fresh.line[at]} ({fitted.residual[at]:+.1%})" for at in worst[:5])
    more = f" and {len(worst) - 5} more" if len(worst) > 5 else ""
    return [
        f"over {OUTLIER_DEVIATIONS:g} robust deviations off the law: line {lines}{more}; they are"
        f" used and widen the intervals (to exclude them: --outlier-mad {OUTLIER_DEVIATIONS:g})"
    ]


def drop_outliers(
    fresh: Runs, runs: Runs, fitted: LawFit, limit: float
) -> tuple[Runs, Runs, list[ExcludedRun]]:
    """Return the runs within `limit` robust deviations of a first fit, and the excluded ones."""
    if not limit > 0:
        raise OmfaError(f"--outlier-mad must be above 0, got {limit:g}")
    residual, deviation = fitted.residual, compute_robust_deviation(fitted)
    far = np.abs(residual) > max(limit * deviation, 1e-9)
    excluded = [
        ExcludedRun(
            int(line),
            f"log residual {r:+.4f} of the first fit is over {limit:g} times its robust deviation"
            f" {deviation:.4f} (--outlier-mad)",
        )
        for line, r in zip(fresh.line[far], residual[far], strict=True)
    ]
    kept = ~np.isin(runs.line, fresh.line[far])
    return fresh.take(~far), runs.take(kept), excluded
