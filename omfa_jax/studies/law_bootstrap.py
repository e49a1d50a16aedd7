"""Confidence intervals of quantities of a fitted law, by a studentised parametric bootstrap.

Normal noise with the residuals' standard deviation is added to the fitted log losses and the law is
refitted, `count` times. Resampling the runs or the residuals undercovers with 10 to 40 runs: five
coefficients absorb five residuals (a Huber fit with a small delta passes through about as many
runs), and a grid without one of its corners is a different grid. The intervals are the hull of two
intervals that are both asymptotically right: percentiles, and estimate +- quantile(|t*|) * error
with t* = (resampled - estimate) / its error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.studies.law_solver import compute_log_loss, fit_many, invert_normal
from omfa_jax.studies.loss_law import LawFit, to_natural_units

LEVEL = 0.95
USABLE = 0.95  # the share of the resamples that must give a finite value

Quantity = Callable[[Float[np.ndarray, "m 5"]], Float[np.ndarray, "m"]]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval, None where the data does not determine one."""

    estimate: float
    low: float | None
    high: float | None

    def contains(self, value: float) -> bool:
        """Return whether a value is inside the interval."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class ResampledFits:
    """A fit and `m` refits of resampled losses, each with its (J^T J)^-1 and noise scale."""

    fit: LawFit
    theta: Float[np.ndarray, "m 5"]
    inverse: Float[np.ndarray, "m 5 5"]
    scale: Float[np.ndarray, "m"]

    @property
    def laws(self) -> Float[np.ndarray, "m 5"]:
        """The resampled laws in natural units."""
        return to_natural_units(self.theta, self.fit.center)

    def compute_interval(self, quantity: Quantity, *, positive: bool = False) -> Interval:
        """Return the interval of a function of laws in natural units.

        `positive` computes the interval of its logarithm, as suits A, B, N, D and losses.
        """

        def value(theta: np.ndarray) -> np.ndarray:
            out = quantity(to_natural_units(theta, self.fit.center))
            return np.log(out) if positive else out

        def error(theta: np.ndarray, inverse: np.ndarray, scale: np.ndarray) -> np.ndarray:
            # central differences, because an optimum has no simple derivative
            step = 1e-5 * np.eye(5)
            slopes = np.stack([(value(theta + h) - value(theta - h)) / 2e-5 for h in step], axis=-1)
            return scale * np.sqrt(np.einsum("mi,mij,mj->m", slopes, inverse, slopes))

        with np.errstate(all="ignore"):
            own = self.fit.theta[None]
            estimate = float(value(own)[0])
            inverse, _ = invert_normal(self.fit.design, own)
            own_error = float(
                error(own, inverse, compute_noise_scale(self.fit, self.fit.residual[None]))[0]
            )
            drawn = value(self.theta)
            pivots = np.abs(drawn - estimate) / error(self.theta, self.inverse, self.scale)
        sound = np.isfinite(drawn) & np.isfinite(pivots)
        natural_unit = np.exp if positive else float
        center = float(natural_unit(estimate))
        # exact data, as in tests: every resample is the fit itself
        if self.fit.noise < 1e-9:
            return Interval(center, center, center)
        if not np.isfinite(estimate) or not np.isfinite(own_error) or sound.mean() < USABLE:
            return Interval(center, None, None)
        reach = float(np.quantile(pivots[sound], LEVEL)) * own_error
        low, high = np.quantile(drawn[sound], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        low, high = min(low, estimate - reach), max(high, estimate + reach)
        with np.errstate(over="ignore"):
            return Interval(center, float(natural_unit(low)), float(natural_unit(high)))


def compute_noise_scale(fit: LawFit, residual: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m"]:
    """Return the noise scale for studentising: sum of |residual| over the degrees of freedom."""
    freedoms = residual.shape[1] - int(fit.design.free.sum())
    return np.abs(residual).sum(-1) / max(freedoms, 1)


def resample_fits(fit: LawFit, *, count: int = 500, seed: int = 0) -> ResampledFits:
    """Refit the law to `count` resampled sets of losses of the same runs."""
    rng = np.random.default_rng(seed)
    # the residuals would be too small: the fit has absorbed a part of the noise
    noise = fit.noise * rng.standard_normal((count, len(fit.log_loss)))
    targets = fit.predicted + noise
    theta, _ = fit_many(fit.design, targets, np.repeat(fit.theta[None], count, axis=0))
    inverse, _ = invert_normal(fit.design, theta)
    residual = targets - compute_log_loss(theta, fit.design.x, fit.design.y)[0]
    return ResampledFits(fit, theta, inverse, compute_noise_scale(fit, residual))
