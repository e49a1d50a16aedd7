"""What a run costs by its size: FLOPs = k N^(1 + kappa) D, read off the table."""

from dataclasses import dataclass

import numpy as np

from omfa_jax.scaling.table import Runs

CONSTANT = 0.02  # FLOPs per parameter and sample that spread less than this are one number


@dataclass(frozen=True)
class Cost:
    """FLOPs = k params^(1 + kappa) samples; `spread` is the logarithm's deviation from it.

    A transformer's tokens have kappa = 0 and k = 6. A UNet's FLOPs do not follow its parameters
    (its widest blocks see the fewest positions), which kappa takes up to first order.
    """

    k: float
    kappa: float
    spread: float

    def flops(self, params: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return FLOPs of runs."""
        return self.k * params ** (1 + self.kappa) * samples

    def samples(self, params: np.ndarray, flops: np.ndarray | float) -> np.ndarray:
        """Return how many samples a budget buys a model."""
        return flops / (self.k * params ** (1 + self.kappa))


def cost_of(runs: Runs) -> Cost:
    """Return the cost rule of runs with FLOPs of their own."""
    factor = np.log(runs.flops / (runs.params * runs.samples))
    constant = float(np.median(factor))
    spread = float(np.sqrt(np.mean((factor - constant) ** 2)))
    size = np.log(runs.params) - np.log(runs.params).mean()
    if spread <= CONSTANT or not (size**2).sum() > 0.01:
        return Cost(float(np.exp(constant)), 0.0, spread)
    kappa = float((size @ factor) / (size @ size))
    rest = factor - factor.mean() - kappa * size
    k = float(np.exp(factor.mean() - kappa * np.log(runs.params).mean()))
    return Cost(k, kappa, float(np.sqrt(np.mean(rest**2))))
