"""Huber fits of the loss law: one by L-BFGS from a grid of starts, or thousands at once.

Both work on log losses in the logsumexp form of Hoffmann et al. (arXiv 2203.15556, approach 3),

    log L = logsumexp(a - alpha x, b - beta y, e),

with x = log N and y = log D measured from their means, so that the five unknowns
theta = (a, b, e, alpha, beta) are of one size and L-BFGS is not lost in a narrow valley.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

HUBER_DELTA = 1e-3  # of log loss; Hoffmann et al., appendix D.3
LOWEST, HIGHEST = np.array([-30, -30, -30, -1, -1]), np.array([10, 10, 10, 6, 6])
BEST_STARTS = 12  # of the grid, already linear least squares in E, A and B, L-BFGS goes on from
START_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.1, 1.6)


@dataclass(frozen=True)
class Design:
    """Where the runs are: centred log N and log D (n,), and which of the five unknowns are free."""

    x: Float[np.ndarray, "n"]
    y: Float[np.ndarray, "n"]
    free: Bool[np.ndarray, "5"]


def log_loss(
    theta: Float[np.ndarray, "*m 5"], x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return log L (*m n) and its derivatives by theta (*m n 5)."""
    a, b, e, alpha, beta = (theta[..., i, None] for i in range(5))
    terms = np.stack(np.broadcast_arrays(a - alpha * x, b - beta * y, e), axis=-1)
    top = terms.max(-1, keepdims=True)
    shares = np.exp(terms - top)
    total = shares.sum(-1, keepdims=True)
    shares = shares / total
    slopes = np.stack([-x * shares[..., 0], -y * shares[..., 1]], axis=-1)
    return (top + np.log(total))[..., 0], np.concatenate([shares, slopes], axis=-1)


def huber(residual: np.ndarray, delta: float = HUBER_DELTA) -> np.ndarray:
    """Return r^2 / 2 up to delta and delta (|r| - delta / 2) beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))


def starts(design: Design, loss: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m 5"]:
    """Return a start for every pair of exponents: E, A and B are then linear, and not negative."""
    from scipy.optimize import nnls

    found = []
    for alpha in START_EXPONENTS:
        for beta in START_EXPONENTS:
            columns = [np.exp(-alpha * design.x), np.exp(-beta * design.y), np.ones_like(loss)]
            if not design.free[2]:
                columns[2] = np.zeros_like(loss)
            # relative errors, because the fit is of log losses
            factors, _ = nnls(np.stack(columns, 1) / loss[:, None], np.ones_like(loss))
            # a term that came out as nothing starts small, not at minus infinity
            factors = np.maximum(factors, 0.02 * loss.min())
            found.append([*np.log(factors), alpha, beta])
    theta = np.array(found)
    theta[:, ~design.free] = LOWEST[~design.free]
    return theta


def fit_one(design: Design, loss: Float[np.ndarray, "n"]) -> tuple[np.ndarray, float]:
    """Return theta (5,) and the sum of Huber losses: the best of L-BFGS from the best starts."""
    from scipy.optimize import minimize

    target, free = np.log(loss), design.free
    # in units of delta^2 a run, so that L-BFGS's stopping rules see numbers near 1
    scale = 1 / (HUBER_DELTA**2 * len(loss))

    def objective(part: np.ndarray, fixed: np.ndarray) -> tuple[float, np.ndarray]:
        theta = fixed.copy()
        theta[free] = part
        predicted, slopes = log_loss(theta, design.x, design.y)
        residual = predicted - target
        clipped = np.clip(residual, -HUBER_DELTA, HUBER_DELTA)
        return scale * huber(residual).sum(), scale * (clipped @ slopes)[free]

    grid = starts(design, loss)
    first = huber(log_loss(grid, design.x, design.y)[0] - target).sum(-1)
    grid = grid[np.argsort(first, kind="stable")[:BEST_STARTS]]
    bounds = list(zip(LOWEST[free], HIGHEST[free], strict=True))
    ends = np.empty_like(grid)
    for i, start in enumerate(grid):
        found = minimize(
            objective,
            np.clip(start, LOWEST, HIGHEST)[free],
            (start,),
            method="L-BFGS-B",
            jac=True,
            bounds=bounds,
            options={"maxiter": 400, "ftol": 1e-9},
        )
        ends[i] = start
        ends[i, free] = found.x
    # near the bottom Huber with a small delta has edges, which the reweighted steps settle on
    theta, value = fit_many(design, np.broadcast_to(target, (len(ends), len(target))), ends)
    best = int(np.argmin(value))
    return theta[best], float(value[best])


def fit_many(
    design: Design,
    targets: Float[np.ndarray, "m n"],
    theta: Float[np.ndarray, "m 5"],
    *,
    iterations: int = 120,
    tolerance: float = 1e-5,
) -> tuple[Float[np.ndarray, "m 5"], Float[np.ndarray, "m"]]:
    """Return theta and the sums of Huber losses of m fits to log losses, each from its start.

    Reweighted least squares with Levenberg-Marquardt steps: Huber's loss is majorised by a square
    with weight min(1, delta / |r|), so a step that lowers the square lowers the loss. Rows stop
    when five steps together gain less than `tolerance` of the loss.
    """
    theta = np.clip(theta, LOWEST, HIGHEST)
    theta[:, ~design.free] = LOWEST[~design.free]
    free = np.flatnonzero(design.free)
    value = huber(log_loss(theta, design.x, design.y)[0] - targets).sum(-1)
    damping = np.full(len(theta), 1e-3)
    active, mark = np.arange(len(theta)), value.copy()
    for step in range(iterations):
        now = theta[active]
        predicted, slopes = log_loss(now, design.x, design.y)
        residual, slopes = predicted - targets[active], slopes[..., free]
        weight = HUBER_DELTA / np.maximum(np.abs(residual), HUBER_DELTA)
        weighted = slopes * weight[..., None]
        normal = np.swapaxes(weighted, 1, 2) @ slopes
        gradient = (np.swapaxes(weighted, 1, 2) @ residual[..., None])[..., 0]
        diagonal = np.einsum("mii->mi", normal)
        diagonal += damping[active, None] * diagonal + 1e-12 * diagonal.max(-1, keepdims=True)
        diagonal += 1e-300
        change = np.linalg.solve(normal, gradient[..., None])[..., 0]
        tried = now.copy()
        tried[:, free] -= np.clip(change, -2, 2)
        tried = np.clip(tried, LOWEST, HIGHEST)
        tried[:, ~design.free] = LOWEST[~design.free]
        reached = huber(log_loss(tried, design.x, design.y)[0] - targets[active]).sum(-1)
        better = reached < value[active]
        theta[active[better]] = tried[better]
        value[active[better]] = reached[better]
        damping[active] = np.where(better, damping[active] / 4, damping[active] * 6)
        damping[active] = np.clip(damping[active], 1e-9, 1e9)
        if step % 5 == 4:
            gained = mark[active] - value[active]
            floor = 1e-22 * targets.shape[1]
            active = active[gained > tolerance * value[active] + floor]
            mark = value.copy()
            if not len(active):
                break
    return theta, value


def inverse_normal(
    design: Design, theta: Float[np.ndarray, "m 5"]
) -> tuple[Float[np.ndarray, "m 5 5"], Float[np.ndarray, "m n"]]:
    """Return (J^T J)^-1, zero for what is not free, and each run's leverage in [0, 1]."""
    slopes = log_loss(theta, design.x, design.y)[1][..., design.free]
    # by QR, not by the normal equations: their condition would be squared
    q, r = np.linalg.qr(slopes)
    size = np.abs(np.einsum("mii->mi", r)).max(-1)[:, None, None]
    ridge = 1e-12 * size * np.eye(r.shape[-1])
    back = np.linalg.inv(r + ridge)
    inverse = np.zeros((len(theta), 5, 5))
    free = np.flatnonzero(design.free)
    inverse[:, free[:, None], free[None, :]] = back @ np.swapaxes(back, 1, 2)
    return inverse, np.clip((q**2).sum(-1), 0, 1)
