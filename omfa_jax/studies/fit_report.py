"""The printed report of a fit."""

import math

from omfa_jax.studies.fit_scaling import ScalingFit
from omfa_jax.studies.law_bootstrap import Interval


def format_interval(one: Interval, form: str = ".4g") -> str:
    """Return an estimate with its interval in brackets."""
    return f"{one.estimate:{form}} {format_bounds(one, form)}"


def format_bounds(one: Interval, form: str = ".4g") -> str:
    """Return an interval in brackets."""
    if one.low is None or one.high is None:
        return "[no interval]"
    return f"[{one.low:{form}}, {one.high:{form}}]"


def format_report(found: ScalingFit) -> str:
    """Return the complete fit as text; intervals are 95%."""
    runs, cost = found.runs, found.cost
    lines = [
        f"{len(runs)} runs used, {len(found.excluded)} excluded;"
        f" params {runs.params.min():.3g} to {runs.params.max():.3g},"
        f" samples {runs.samples.min():.3g} to {runs.samples.max():.3g},"
        f" FLOPs {runs.flops.min():.3g} to {runs.flops.max():.3g}",
        f"{found.table.flops_rule}; cost: {cost.k:.4g} N^{1 + cost.kappa:.3f} D"
        f" (off by {cost.spread:.1%})",
    ]
    for one in found.excluded:
        lines.append(f"  excluded, line {one.line}: {one.reason}")
    for text in found.warnings:
        lines.append(f"  note: {text}")
    lines += ["", "law  L = E + A/N^alpha + B/D^beta  (Huber on log loss)"]
    fit = found.fit
    if fit is None:
        lines.append(f"  REFUSED: {found.refused}")
    else:
        names = {"a": "a  (N_opt ~ C^a)", "b": "b  (D_opt ~ C^b)"}
        for name, one in found.coefficients.items():
            # a fixed coefficient has no interval
            if name == "E" and not fit.irreducible:
                lines.append(f"  {'E':20}0, fixed (--no-irreducible)")
            else:
                lines.append(f"  {names.get(name) or name:20}{format_interval(one)}")
        lines.append(f"  {'noise of a run':20}{fit.noise:.2%}")
    lines += ["", *format_isoflop(found), "", *format_envelope(found)]
    held = found.held_out
    if held is not None:
        lines += ["", "held out: the largest runs, predicted by a law fitted to the others"]
        if held.refused is not None:
            lines.append(f"  refused: {held.refused}")
        else:
            lines.append(
                f"  {len(held.lines)} runs, to {held.beyond:.3g} times the others' compute: error"
                f" {held.rms:.2%} rms, {abs(held.errors).max():.2%} at most,"
                f" {held.errors.mean():+.2%} on average (the fitted runs:"
                f" {(held.inside**2).mean() ** 0.5:.2%} rms)"
            )
    repeats = found.repeats
    if repeats is not None:
        lines += ["", "repeated samples (data-constrained law)"]
        if repeats.refused is not None:
            lines.append(f"  refused: {repeats.refused}")
        for name, one in (("R*_D", repeats.r_samples), ("R*_N", repeats.r_params)):
            if one is not None:
                lines.append(f"  {name:20}{format_interval(one)}")
        lines += [f"  note: {text}" for text in repeats.notes]
    if found.optima:
        lines += ["", "compute-optimal size"]
    for best in found.optima:
        lines.append(
            f"  {best.flops:.4g} FLOPs: N {format_interval(best.params, '.3g')}, D"
            f" {format_interval(best.samples, '.3g')}, loss {format_interval(best.loss)}"
        )
        lines += [f"    note: {text}" for text in best.notes]
    if found.predictions:
        lines += [
            "",
            "predicted runs without repeated samples (interval of the law; of a single run)",
        ]
    for one in found.predictions:
        lines.append(
            f"  N {one.params:.4g}, D {one.samples:.4g} ({one.beyond:.3g} times the largest"
            f" compute): {format_interval(one.loss)}; {format_bounds(one.run)}"
        )
        lines += [f"    note: {text}" for text in one.notes]
    return "\n".join(lines)


def format_isoflop(found: ScalingFit) -> list[str]:
    """Return the lines about the parabolas and their power laws."""
    one = found.isoflop
    power = 1 + found.cost.kappa
    lines = [f"IsoFLOP parabolas (a budget: runs within {one.tolerance:.0%} of its centre)"]
    for parabola in one.parabolas:
        head = f"  {parabola.flops:.3g} FLOPs, {len(parabola.rows)} runs: "
        if parabola.refused is None:
            lines.append(
                f"{head}N_opt {math.exp(parabola.log_params):.4g}, loss {parabola.loss:.4g}"
            )
        else:
            lines.append(f"{head}not used, {parabola.refused}")
    if one.alone:
        lines.append(f"  {one.alone} run(s) have a budget of their own")
    if one.refused is not None or one.a is None or one.b is None or one.sum is None:
        lines.append(f"  power law refused: {one.refused}")
        return lines
    lines += [f"  {'a':20}{format_interval(one.a)}", f"  {'b':20}{format_interval(one.b)}"]
    # N has a power in the cost where FLOPs do not grow in proportion to parameters
    name = "a + b" if power == 1 else f"{power:.3f} a + b"
    # FLOPs = k N^power D implies 1: otherwise a parabola or the cost rule is off
    agrees = "consistent with 1" if one.sum.contains(1.0) else "NOT consistent with 1"
    lines.append(f"  {name:20}{format_interval(one.sum)}: {agrees}")
    return lines


def format_envelope(found: ScalingFit) -> list[str]:
    """Return the lines about the envelope and its power laws."""
    one = found.envelope
    lines = [
        f"envelope of all runs ({len(one.rows)} on it; intervals exclude the bias of a coarse grid)"
    ]
    if one.refused is not None or one.a is None or one.b is None:
        return [*lines, f"  refused: {one.refused}"]
    return [*lines, f"  {'a':20}{format_interval(one.a)}", f"  {'b':20}{format_interval(one.b)}"]
