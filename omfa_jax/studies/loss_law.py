"""The loss law L = E + A / N^alpha + B / D^beta, fitted to runs (Hoffmann et al., approach 3)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omfa_jax.studies.cost_rule import CostRule
from omfa_jax.studies.law_solver import Design, compute_log_loss, fit_one
from omfa_jax.studies.runs_table import Runs

COEFFICIENTS = ("A", "B", "E", "alpha", "beta")


@dataclass(frozen=True)
class LawFit:
    """A fitted law; `theta` is (a, b, e, alpha, beta) about `center`, the means of log N and log D.

    `log_loss` are the log losses of the fitted runs and `objective` is the sum of Huber losses.
    """

    design: Design
    center: tuple[float, float]
    theta: Float[np.ndarray, "5"]
    log_loss: Float[np.ndarray, "n"]
    objective: float

    @property
    def predicted(self) -> Float[np.ndarray, "n"]:
        """The log losses of the fitted runs by the law."""
        return compute_log_loss(self.theta, self.design.x, self.design.y)[0]

    @property
    def residual(self) -> Float[np.ndarray, "n"]:
        """Measured minus predicted log loss, i.e. the relative error of a run's loss."""
        return self.log_loss - self.predicted

    @property
    def noise(self) -> float:
        """Standard deviation of log loss about the law, with runs - unknowns degrees of freedom."""
        free = len(self.log_loss) - int(self.design.free.sum())
        return float(np.sqrt((self.residual**2).sum() / max(free, 1)))

    @property
    def irreducible(self) -> bool:
        """Whether E was fitted (otherwise it is 0)."""
        return bool(self.design.free[2])

    @property
    def natural(self) -> Float[np.ndarray, "5"]:
        """The law in natural units: (log A, log B, log E, alpha, beta)."""
        return to_natural_units(self.theta, self.center)


def to_natural_units(
    theta: Float[np.ndarray, "*m 5"], center: tuple[float, float]
) -> Float[np.ndarray, "*m 5"]:
    """Return (log A, log B, log E, alpha, beta) from coefficients about `center`."""
    out = theta.copy()
    out[..., 0] += theta[..., 3] * center[0]
    out[..., 1] += theta[..., 4] * center[1]
    return out


def fit_law(runs: Runs, *, irreducible: bool = True) -> LawFit:
    """Fit the law; `irreducible=False` fixes E at 0. Check `run_cleaning.find_obstacle` first."""
    # centring removes most of the correlation between a coefficient and its exponent
    x, y = np.log(runs.params), np.log(runs.samples)
    center = (float(x.mean()), float(y.mean()))
    free = np.array([True, True, irreducible, True, True])
    design = Design(x - center[0], y - center[1], free)
    theta, objective = fit_one(design, runs.loss)
    return LawFit(design, center, theta, np.log(runs.loss), objective)


def get_coefficient(law: Float[np.ndarray, "*m 5"], name: str) -> Float[np.ndarray, "*m"]:
    """Return A, B, E, alpha or beta of laws in natural units."""
    value = law[..., COEFFICIENTS.index(name)]
    return value if name in ("alpha", "beta") else np.exp(value)


def compute_loss(
    law: Float[np.ndarray, "*m 5"], params: float | np.ndarray, samples: float | np.ndarray
) -> np.ndarray:
    """Return L(N, D); `params` and `samples` broadcast against the laws."""
    log_a, log_b, log_e, alpha, beta = (law[..., i] for i in range(5))
    return (
        np.exp(log_e)
        + np.exp(log_a - alpha * np.log(params))
        + np.exp(log_b - beta * np.log(samples))
    )


def compute_exponents(
    law: Float[np.ndarray, "*m 5"], cost: CostRule
) -> tuple[np.ndarray, np.ndarray]:
    """Return a and b of N_opt ~ C^a, D_opt ~ C^b; (1 + kappa) a + b = 1.

    Both are nan where an exponent is not positive, because there is no optimum.
    """
    sound = (law[..., 3] > 0) & (law[..., 4] > 0)
    alpha, beta = (np.where(sound, law[..., at], np.nan) for at in (3, 4))
    # from (1 + kappa) a + b = 1 on the cost rule
    a = beta / (alpha + beta * (1 + cost.kappa))
    return a, 1 - (1 + cost.kappa) * a


def compute_optimum(
    law: Float[np.ndarray, "*m 5"], cost: CostRule, flops: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return log N and log D of the lowest loss for a budget; nan if an exponent is not positive.

    The optimum has alpha A N^-alpha = (1 + kappa) beta B D^-beta on FLOPs = k N^(1 + kappa) D;
    kappa = 0 gives equation 4 of Hoffmann et al.
    """
    log_a, log_b, _, alpha, beta = (law[..., i] for i in range(5))
    power = 1 + cost.kappa
    sound = (alpha > 0) & (beta > 0)
    alpha, beta = np.where(sound, alpha, np.nan), np.where(sound, beta, np.nan)
    budget = np.log(flops) - np.log(cost.k)
    log_n = (np.log(alpha) + log_a - np.log(power) - np.log(beta) - log_b + beta * budget) / (
        alpha + beta * power
    )
    return log_n, budget - power * log_n


def find_doubts(fit: LawFit) -> list[str]:
    """Return reasons to doubt a fit that converged."""
    found = []
    lowest = float(np.exp(fit.log_loss.min()))
    _, _, log_e, alpha, beta = fit.natural
    parts = np.exp(
        np.stack([fit.theta[0] - alpha * fit.design.x, fit.theta[1] - beta * fit.design.y], axis=0)
    )
    for name, exponent, part in zip(("alpha", "beta"), (alpha, beta), parts, strict=True):
        if not 0.01 < exponent < 4:
            found.append(f"{name} = {exponent:.3g} is outside the range that data can determine")
        # 2 standard deviations: less is indistinguishable from the noise of one run
        if np.ptp(part) < 2 * fit.noise * lowest and fit.noise > 1e-9:
            found.append(f"the term of {name} varies less over the runs than the noise")
    if fit.irreducible and np.exp(log_e) < 1e-3 * lowest:
        found.append(
            "E is fitted as 0: the runs do not show an irreducible loss; try --no-irreducible"
        )
    return found
