"""The training FLOPs of a run as a function of its size, FLOPs = k N^(1 + kappa) D, fitted."""

from dataclasses import dataclass

import numpy as np

from omfa_jax.studies.runs_table import Runs

CONSTANT_SPREAD = 0.02  # FLOPs per parameter and sample are taken as constant below this spread


@dataclass(frozen=True)
class CostRule:
    """FLOPs = k params^(1 + kappa) samples; `spread` is the deviation of log FLOPs from it.

    For the tokens of a transformer kappa = 0 and k = 6. The FLOPs of a UNet are not proportional to
    its parameters, because its widest blocks have the fewest positions; kappa describes that to
    first order.
    """

    k: float
    kappa: float
    spread: float

    def compute_flops(self, params: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the training FLOPs of runs."""
        return self.k * params ** (1 + self.kappa) * samples

    def compute_samples(self, params: np.ndarray, flops: np.ndarray | float) -> np.ndarray:
        """Return the samples that a budget allows for a model."""
        return flops / (self.k * params ** (1 + self.kappa))


def fit_cost_rule(runs: Runs) -> CostRule:
    """Fit the cost rule to the FLOPs of runs."""
    factor = np.log(runs.flops / (runs.params * runs.samples))
    # the median ignores single runs with a wrong FLOPs entry
    constant = float(np.median(factor))
    spread = float(np.sqrt(np.mean((factor - constant) ** 2)))
    size = np.log(runs.params) - np.log(runs.params).mean()
    # without variation in size, kappa cannot be estimated
    if spread <= CONSTANT_SPREAD or not (size**2).sum() > 0.01:
        return CostRule(float(np.exp(constant)), 0.0, spread)
    kappa = float((size @ factor) / (size @ size))
    rest = factor - factor.mean() - kappa * size
    k = float(np.exp(factor.mean() - kappa * np.log(runs.params).mean()))
    return CostRule(k, kappa, float(np.sqrt(np.mean(rest**2))))
