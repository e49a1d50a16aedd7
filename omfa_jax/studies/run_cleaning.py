"""Selection of the runs for a fit, with a reason for each exclusion; and whether they suffice."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.core.errors import OmfaError
from omfa_jax.studies.runs_table import ExcludedRun, Runs

DIVERGENCE_FACTOR = 1.25  # times the loss of a run with no more parameters and samples
MIN_LINE_SPREAD = (
    0.1  # least spread of the runs around a line in (log N, log D), natural logarithms
)
MAX_RISING_SHARE = 0.35  # largest share of comparable pairs whose larger run has the higher loss


@dataclass(frozen=True)
class CleaningRules:
    """Exclusions that the user asks for; None and 0 exclude nothing."""

    max_loss: float | None = None
    drop_highest: int = 0
    outlier_mad: float | None = None


def clean_runs(runs: Runs, rules: CleaningRules) -> tuple[Runs, list[ExcludedRun], list[str]]:
    """Return the usable runs, the excluded ones with reasons, and warnings about the rest.

    Excluded in this order: values that are missing, infinite or not positive; exact duplicates;
    losses above `max_loss`; the `drop_highest` highest losses; diverged runs (see `find_diverged`).
    """
    if rules.max_loss is not None and not rules.max_loss > 0:
        raise OmfaError(f"--max-loss must be above 0, got {rules.max_loss:g}")
    if rules.drop_highest < 0:
        raise OmfaError(f"--drop-highest must be 0 or more, got {rules.drop_highest}")
    reasons: dict[int, str] = {}

    def exclude(at: int, reason: str) -> None:
        if at not in reasons:
            reasons[at] = reason

    seen: dict[tuple, int] = {}
    for at in range(len(runs)):
        for name in ("params", "samples", "loss", "flops"):
            value = float(getattr(runs, name)[at])
            if not np.isfinite(value):
                exclude(at, f"{name} is {'missing' if np.isnan(value) else 'infinite'}")
            elif value <= 0:
                exclude(at, f"{name} is {value:g} and must be above 0")
        unique = float(runs.unique[at])
        # nan is valid here: the table does not say how many samples are distinct
        if np.isinf(unique) or unique <= 0:
            exclude(at, f"unique is {unique:g} and must be above 0")
        if at in reasons:
            continue
        key = tuple(
            float(getattr(runs, name)[at])
            for name in ("params", "samples", "loss", "flops")
            # nan would make every key unequal to itself
        ) + (float(np.nan_to_num(unique)),)
        if key in seen:
            exclude(at, f"the same numbers as line {runs.line[seen[key]]}")
        else:
            seen[key] = at
        if rules.max_loss is not None and runs.loss[at] > rules.max_loss:
            exclude(at, f"loss {runs.loss[at]:g} is above --max-loss {rules.max_loss:g}")
    left = [at for at in range(len(runs)) if at not in reasons]
    highest = sorted(left, key=lambda at: -runs.loss[at])[: rules.drop_highest]
    for at in highest:
        exclude(at, f"among the {rules.drop_highest} highest losses (--drop-highest)")
    left = np.array([at for at in left if at not in reasons], dtype=int)
    for at, reason in find_diverged(runs.take(left)).items():
        exclude(int(left[at]), reason)
    kept = runs.take(np.array([at for at in range(len(runs)) if at not in reasons], dtype=int))
    excluded = [ExcludedRun(int(runs.line[at]), reasons[at]) for at in sorted(reasons)]
    return kept, excluded, find_warnings(kept)


def find_diverged(runs: Runs) -> dict[int, str]:
    """Return runs whose loss exceeds DIVERGENCE_FACTOR times that of a run with no more N and D.

    No law that decreases in N and D predicts this for a healthy run, whatever its coefficients.
    """
    found = {}
    for at in range(len(runs)):
        smaller = (runs.params <= runs.params[at]) & (runs.samples <= runs.samples[at])
        # repetitions raise the loss, so compare only with runs that have at least as many
        smaller &= runs.epochs >= runs.epochs[at]
        smaller[at] = False
        if not smaller.any():
            continue
        best = int(np.flatnonzero(smaller)[np.argmin(runs.loss[smaller])])
        if runs.loss[at] > DIVERGENCE_FACTOR * runs.loss[best]:
            found[at] = (
                f"diverged: loss {runs.loss[at]:g} is more than {DIVERGENCE_FACTOR:g} times the"
                f" {runs.loss[best]:g} of line {runs.line[best]}, which has no more parameters and"
                " samples"
            )
    return found


def compute_rising_share(runs: Runs) -> float:
    """Return the share of pairs, comparable in N and D, whose larger run has the higher loss."""
    more = (runs.params[:, None] >= runs.params) & (runs.samples[:, None] >= runs.samples)
    same = (runs.params[:, None] == runs.params) & (runs.samples[:, None] == runs.samples)
    pairs = more & ~same
    rising = pairs & (runs.loss[:, None] > runs.loss)
    return float(rising.sum() / max(pairs.sum(), 1))


def find_warnings(runs: Runs) -> list[str]:
    """Return warnings about runs that are used nevertheless."""
    found = []
    if len(runs) > 1:
        share = compute_rising_share(runs)
        if share > 0.05:
            found.append(
                f"not monotone: in {share:.0%} of the pairs where one run has at least as many"
                " parameters and samples, its loss is higher"
            )
        places = {(float(n), float(d)) for n, d in zip(runs.params, runs.samples, strict=True)}
        if len(places) < len(runs):
            found.append(
                f"{len(runs) - len(places)} runs have the parameters and samples of another run"
                " and a different loss: kept, as other seeds"
            )
    return found


def compute_line_spread(runs: Runs) -> tuple[float, Float[np.ndarray, "2"]]:
    """Return the spread of the runs around the best line in (log N, log D), and its direction."""
    points = np.stack([np.log(runs.params), np.log(runs.samples)], axis=1)
    _, sizes, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return float(sizes[1] / np.sqrt(len(points))), axes[0]


def find_obstacle(runs: Runs, *, unknowns: int) -> str | None:
    """Return why these runs cannot determine a law with `unknowns` coefficients, or None."""
    if len(runs) < 2:
        return f"{len(runs)} usable run(s), but the law has {unknowns} coefficients"
    sizes, amounts = count_distinct(runs.params), count_distinct(runs.samples)
    # with E, only the curvature of a term separates it from the floor: that takes three values
    least = 3 if unknowns == 5 else 2
    for count, name, what in (
        (sizes, "model size", "A, alpha"),
        (amounts, "data size", "B, beta"),
    ):
        if count < least:
            amount = f"only one {name}" if count == 1 else f"only {count} {name}s"
            and_e = " and E" if unknowns == 5 else ""
            return f"{amount}: {what}{and_e} cannot be separated (at least {least} needed)"
    if len(runs) <= unknowns:
        return (
            f"{len(runs)} usable runs for {unknowns} coefficients: at least {unknowns + 1} needed"
        )
    spread, axis = compute_line_spread(runs)
    if spread < MIN_LINE_SPREAD:
        slope = axis[1] / axis[0]
        # log N + log D is constant at constant compute
        if abs(slope + 1) < 0.15:
            what = "all runs have the same compute"
        elif abs(slope - 1) < 0.15:
            what = "N and D are collinear: a fixed ratio of samples to parameters"
        else:
            what = f"N and D are collinear: log D = {slope:.2f} log N + constant"
        return (
            f"{what} (spread off that line {spread:.3f} in natural logarithms, at least"
            f" {MIN_LINE_SPREAD:g} needed), so A/N^alpha and B/D^beta cannot be separated"
        )
    # a constant column, e.g. of the wrong metric
    if np.ptp(np.log(runs.loss)) < 1e-6:
        return "the loss is the same in all runs"
    share = compute_rising_share(runs)
    if share > MAX_RISING_SHARE:
        return (
            f"the loss does not decrease with size and samples: in {share:.0%} of comparable pairs"
            " the larger run has the higher loss"
        )
    return None


def count_distinct(values: Float[np.ndarray, "n"], tolerance: float = 0.02) -> int:
    """Return the number of values that differ by more than a relative `tolerance`."""
    steps = np.diff(np.sort(np.log(values)))
    return 1 + int((steps > tolerance).sum())
