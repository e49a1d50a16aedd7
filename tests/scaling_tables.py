"""Tables of runs whose loss law is known, for the tests and bench/interval_coverage.py."""

import json
from pathlib import Path

import numpy as np

from omfa_jax.studies.cost_rule import CostRule
from omfa_jax.studies.repeated_samples import compute_constrained_loss
from omfa_jax.studies.runs_table import Runs

# as published by Besiroglu et al. (arXiv 2404.10102), table 1
A, B, E, ALPHA, BETA = 482.01, 2085.43, 1.8172, 0.3478, 0.3658
TRUE_LAW = np.array([np.log(A), np.log(B), np.log(E), ALPHA, BETA])
SIX = CostRule(6.0, 0.0, 0.0)
# Muennighoff et al., for C4
R_SAMPLES, R_PARAMS = 15.4, 5.3


def places(design: str) -> tuple[np.ndarray, np.ndarray]:
    """Return params and samples: "grid" (6 x 5), "small" (4 x 3), "isoflop" (5 budgets of 6)."""
    if design == "isoflop":
        budgets = np.repeat(np.geomspace(1e19, 1e21, 5), 6)
        params = np.sqrt(budgets / 120) * np.tile(np.geomspace(1 / 6, 6, 6), 5)
        return params, budgets / (6 * params)
    sizes, amounts = {"grid": (6, 5), "small": (4, 3)}[design]
    params = np.repeat(np.geomspace(5e7, 5e9, sizes), amounts)
    return params, np.tile(np.geomspace(1e9, 1e11, amounts), sizes)


def runs_of(params, samples, *, noise=None, unique=None, loss=None, log_r=(30.0, 30.0)) -> Runs:
    """Return runs of the true law; `noise` is added to log losses."""
    params, samples = np.asarray(params, float), np.asarray(samples, float)
    known = samples if unique is None else np.asarray(unique, float)
    if loss is None:
        loss = compute_constrained_loss(TRUE_LAW, SIX, params, samples, known, np.array(log_r))
        # only runs that repeat have effective parameters: the law is fitted to the others as it is
        fresh = known >= samples
        plain = E + A / params**ALPHA + B / samples**BETA
        loss = np.where(fresh, plain, loss)
    if noise is not None:
        loss = loss * np.exp(noise)
    lines = np.arange(2, len(params) + 2)
    unique = np.full(len(params), np.nan) if unique is None else np.asarray(unique, float)
    return Runs(params, samples, np.asarray(loss, float), 6 * params * samples, unique, lines)


def repeating(noise_rng=None, sigma: float = 0.0, r=(R_SAMPLES, R_PARAMS)) -> Runs:
    """Return the grid's runs and 30 that repeat 1e9 or 1e10 samples up to 64 times."""
    params, samples = places("grid")
    sizes = np.tile(np.array([1e8, 4e8, 1.6e9, 6.4e9, 1.3e10]), 6)
    unique = np.repeat(np.array([1e9, 1e10]), 15)
    epochs = np.tile(np.repeat(np.array([4.0, 16.0, 64.0]), 5), 2)
    everything = (np.concatenate(pair) for pair in ((params, sizes), (samples, unique * epochs)))
    noise = None if noise_rng is None else sigma * noise_rng.standard_normal(60)
    return runs_of(
        *everything, unique=np.concatenate([samples, unique]), noise=noise, log_r=np.log(r)
    )


def write_csv(path: Path, runs: Runs, **columns: str) -> Path:
    """Write runs as a CSV; `columns` renames them, "" leaves one out."""
    names = {"params": "params", "samples": "samples", "loss": "loss", "flops": "flops"} | columns
    used = {name: title for name, title in names.items() if title}
    rows = [",".join(used.values())]
    for at in range(len(runs)):
        rows.append(",".join(repr(float(getattr(runs, name)[at])) for name in used))
    path.write_text("\n".join(rows) + "\n")
    return path


def read_json(path: Path) -> dict:
    """Return strict JSON: nan and infinity are errors."""

    def refuse(text: str):
        raise AssertionError(f"{path}: {text} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)
