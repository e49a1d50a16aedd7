"""Coverage of the 95% intervals of `omfa scaling fit`: how often they contain the true value.

    PYTHONPATH=.:tests python bench/interval_coverage.py

Generates tables of runs from the published Chinchilla law, each with new noise, fits them as the
command does, and prints rows for bench/RESULTS.md. With --table FILE, compares the published
coefficients with the intervals of that table (Epoch AI's svg_extracted_data.csv, --drop-highest 5).
"""

import argparse
import time

import numpy as np
from scaling_tables import ALPHA, BETA, SIX, TRUE_LAW, A, B, E, places, repeating, runs_of

from omfa_jax.studies.cost_rule import fit_cost_rule
from omfa_jax.studies.isoflop import fit_isoflop
from omfa_jax.studies.law_bootstrap import resample_fits
from omfa_jax.studies.loss_law import (
    compute_exponents,
    compute_loss,
    compute_optimum,
    fit_law,
    get_coefficient,
)
from omfa_jax.studies.repeated_samples import fit_repeats
from omfa_jax.studies.run_cleaning import CleaningRules, clean_runs
from omfa_jax.studies.runs_table import read_runs_table

FAR = 1e23
QUANTITIES = {
    "alpha": lambda laws: get_coefficient(laws, "alpha"),
    "beta": lambda laws: get_coefficient(laws, "beta"),
    "E": lambda laws: get_coefficient(laws, "E"),
    "A": lambda laws: get_coefficient(laws, "A"),
    "B": lambda laws: get_coefficient(laws, "B"),
    "a": lambda laws: compute_exponents(laws, SIX)[0],
    "N at 1e23": lambda laws: np.exp(compute_optimum(laws, SIX, FAR)[0]),
    "loss at 1e23": lambda laws: compute_loss(laws, *map(np.exp, compute_optimum(laws, SIX, FAR))),
}
CASES = {
    "grid": ("grid", 0.01, "normal"),
    "isoflop": ("isoflop", 0.005, "normal"),
    "small": ("small", 0.01, "normal"),
    "tails": ("grid", 0.01, "Student t(3)"),
}


def drawn(kind: str, sigma: float, shape: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "normal":
        return sigma * rng.standard_normal(shape)
    return sigma * rng.standard_t(3, shape) / np.sqrt(3)


def coverage(design: str, sigma: float, kind: str, repeats: int, resamples: int) -> str:
    rng = np.random.default_rng(20)
    truth = {name: float(one(TRUE_LAW[None])[0]) for name, one in QUANTITIES.items()}
    held = dict.fromkeys([*truth, "IsoFLOP a", "IsoFLOP b"], 0)
    widths: list[float] = []
    seconds = time.process_time()
    for seed in range(repeats):
        params, samples = places(design)
        runs = runs_of(params, samples, noise=drawn(kind, sigma, len(params), rng))
        found = resample_fits(fit_law(runs), count=resamples, seed=seed)
        for name, quantity in QUANTITIES.items():
            one = found.compute_interval(quantity, positive=name[0] in "ABNl")
            held[name] += one.contains(truth[name])
            if name == "alpha" and one.low is not None and one.high is not None:
                widths.append(one.high - one.low)
        if design == "isoflop":
            iso = fit_isoflop(runs)
            held["IsoFLOP a"] += iso.a is not None and iso.a.contains(truth["a"])
            held["IsoFLOP b"] += iso.b is not None and iso.b.contains(1 - truth["a"])
    seconds = time.process_time() - seconds
    if design != "isoflop":
        del held["IsoFLOP a"], held["IsoFLOP b"]
    inside = ", ".join(f"{name} {count}" for name, count in held.items())
    return (
        f"| {design}, {len(params)} runs, {sigma:.1%} {kind} noise | of {repeats}: {inside};"
        f" alpha's width {np.median(widths):.3f}; {seconds:.0f} s of CPU |"
    )


def repeats_coverage(sigma: float, repeats: int, resamples: int) -> str:
    rng = np.random.default_rng(21)
    held = {"R*_D": 0, "R*_N": 0}
    for seed in range(repeats):
        runs = repeating(rng, sigma)
        fresh = runs.take(runs.epochs < 1.01)
        base = resample_fits(fit_law(fresh), count=resamples, seed=seed)
        found = fit_repeats(runs, base, SIX, seed=seed)
        held["R*_D"] += found.r_samples is not None and found.r_samples.contains(15.4)
        held["R*_N"] += found.r_params is not None and found.r_params.contains(5.3)
    return f"| repeats, 30 fresh and 30 repeated runs, {sigma:.1%} noise | of {repeats}: {held} |"


def published(path: str) -> list[str]:
    runs, _, _ = clean_runs(read_runs_table(path).runs, CleaningRules(drop_highest=5))
    found, cost = resample_fits(fit_law(runs), count=1000), fit_cost_rule(runs)
    truth = {"A": A, "B": B, "E": E, "alpha": ALPHA, "beta": BETA}
    rows = []
    for name, value in truth.items():
        one = found.compute_interval(
            lambda laws, name=name: get_coefficient(laws, name), positive=name < "C"
        )
        inside = "inside" if one.contains(value) else "OUTSIDE"
        rows.append(f"| {name} | {value:g} | {one.estimate:.4g} | {one} | {inside} |")
    one = found.compute_interval(lambda laws: compute_exponents(laws, cost)[0])
    rows.append(f"| a | {BETA / (ALPHA + BETA):.4f} | {one.estimate:.4f} | {one} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=200)
    names = [*CASES, "repeats"]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--table", help="Epoch AI's svg_extracted_data.csv")
    options = parser.parse_args()
    if options.table:
        print("\n".join(published(options.table)))
        return
    for name in options.cases:
        if name == "repeats":
            print(repeats_coverage(0.005, options.repeats, options.resamples), flush=True)
        else:
            print(coverage(*CASES[name], options.repeats, options.resamples), flush=True)


if __name__ == "__main__":
    main()
