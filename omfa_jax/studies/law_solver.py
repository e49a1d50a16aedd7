"""Huber fits of the loss law: a single one by L-BFGS from a grid of starts, or a batch of them.

Both fit log losses in the logsumexp form of Hoffmann et al. (arXiv 2203.15556, approach 3),

    log L = logsumexp(a - alpha x, b - beta y, e),

with centred x = log N and y = log D, so that the five unknowns theta = (a, b, e, alpha, beta) have
similar magnitudes and L-BFGS does not get stuck in a narrow valley.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

HUBER_DELTA = 1e-3  # in log loss; Hoffmann et al., appendix D.3
LOWEST, HIGHEST = np.array([-30, -30, -30, -1, -1]), np.array([10, 10, 10, 6, 6])
BEST_STARTS = 12  # starts that L-BFGS refines, out of the grid with linear least squares in E, A, B
START_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.1, 1.6)


@dataclass(frozen=True)
class Design:
    """The runs' centred log N and log D, and the mask of the free unknowns (True: fitted)."""

    x: Float[np.ndarray, "n"]
    y: Float[np.ndarray, "n"]
    free: Bool[np.ndarray, "5"]


def compute_log_loss(
    theta: Float[np.ndarray, "*m 5"], x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return log L, shape (*m, n), and its derivatives by theta, shape (*m, n, 5)."""
    a, b, e, alpha, beta = (theta[..., i, None] for i in range(5))
    terms = np.stack(np.broadcast_arrays(a - alpha * x, b - beta * y, e), axis=-1)
    # subtract the maximum, so that exp does not overflow
    top = terms.max(-1, keepdims=True)
    shares = np.exp(terms - top)
    total = shares.sum(-1, keepdims=True)
    shares = shares / total
    slopes = np.stack([-x * shares[..., 0], -y * shares[..., 1]], axis=-1)
    return (top + np.log(total))[..., 0], np.concatenate([shares, slopes], axis=-1)


def compute_huber(residual: np.ndarray, delta: float = HUBER_DELTA) -> np.ndarray:
    """Return the Huber loss: r^2 / 2 up to delta, delta (|r| - delta / 2) beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))


def make_starts(design: Design, loss: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m 5"]:
    """Return one start for each pair of exponents, with E, A, B >= 0 by linear least squares."""
    from scipy.optimize import nnls

    found = []
    for alpha in START_EXPONENTS:
        for beta in START_EXPONENTS:
            columns = [np.exp(-alpha * design.x), np.exp(-beta * design.y), np.ones_like(loss)]
            if not design.free[2]:
                columns[2] = np.zeros_like(loss)
            # relative errors, because log losses are fitted
            factors, _ = nnls(np.stack(columns, 1) / loss[:, None], np.ones_like(loss))
            # a vanishing term starts small and not at log 0
            factors = np.maximum(factors, 0.02 * loss.min())
            found.append([*np.log(factors), alpha, beta])
    theta = np.array(found)
    theta[:, ~design.free] = LOWEST[~design.free]
    return theta


def fit_one(design: Design, loss: Float[np.ndarray, "n"]) -> tuple[np.ndarray, float]:
    """Return theta (5,) and its sum of Huber losses, the best of L-BFGS from the best starts."""
    from scipy.optimize import minimize

    target, free = np.log(loss), design.free
    # in units of delta^2 per run, so that L-BFGS's stopping rules see values near 1
    scale = 1 / (HUBER_DELTA**2 * len(loss))

    def objective(part: np.ndarray, fixed: np.ndarray) -> tuple[float, np.ndarray]:
        theta = fixed.copy()
        theta[free] = part
        predicted, slopes = compute_log_loss(theta, design.x, design.y)
        residual = predicted - target
        clipped = np.clip(residual, -HUBER_DELTA, HUBER_DELTA)
        return scale * compute_huber(residual).sum(), scale * (clipped @ slopes)[free]

    grid = make_starts(design, loss)
    first = compute_huber(compute_log_loss(grid, design.x, design.y)[0] - target).sum(-1)
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
    # with a small delta the optimum lies at kinks, where reweighted steps converge and L-BFGS does
    # not
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
    """Return theta and the sums of Huber losses of m fits to log losses, each from its own start.

    Iteratively reweighted least squares with Levenberg-Marquardt steps: a quadratic with weights
    min(1, delta / |r|) majorises the Huber loss, so a step that lowers it lowers the loss. A fit
    stops when five steps together reduce its loss by less than the relative `tolerance`.
    """
    theta = np.clip(theta, LOWEST, HIGHEST)
    theta[:, ~design.free] = LOWEST[~design.free]
    free = np.flatnonzero(design.free)
    value = compute_huber(compute_log_loss(theta, design.x, design.y)[0] - targets).sum(-1)
    damping = np.full(len(theta), 1e-3)
    active, mark = np.arange(len(theta)), value.copy()
    for step in range(iterations):
        now = theta[active]
        predicted, slopes = compute_log_loss(now, design.x, design.y)
        residual, slopes = predicted - targets[active], slopes[..., free]
        weight = HUBER_DELTA / np.maximum(np.abs(residual), HUBER_DELTA)
        weighted = slopes * weight[..., None]
        normal = np.swapaxes(weighted, 1, 2) @ slopes
        gradient = (np.swapaxes(weighted, 1, 2) @ residual[..., None])[..., 0]
        diagonal = np.einsum("mii->mi", normal)
        diagonal += damping[active, None] * diagonal + 1e-12 * diagonal.max(-1, keepdims=True)
        # an exactly zero slope would make the matrix singular
        diagonal += 1e-300
        change = np.linalg.solve(normal, gradient[..., None])[..., 0]
        tried = now.copy()
        # a far step leaves the region where the quadratic is valid
        tried[:, free] -= np.clip(change, -2, 2)
        tried = np.clip(tried, LOWEST, HIGHEST)
        tried[:, ~design.free] = LOWEST[~design.free]
        reached = compute_huber(
            compute_log_loss(tried, design.x, design.y)[0] - targets[active]
        ).sum(-1)
        # Levenberg-Marquardt: a step that does not help only raises the damping
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


def invert_normal(
    design: Design, theta: Float[np.ndarray, "m 5"]
) -> tuple[Float[np.ndarray, "m 5 5"], Float[np.ndarray, "m n"]]:
    """Return (J^T J)^-1 (zero for fixed unknowns) and each run's leverage in [0, 1]."""
    slopes = compute_log_loss(theta, design.x, design.y)[1][..., design.free]
    # by QR: the normal equations would square the condition number
    q, r = np.linalg.qr(slopes)
    size = np.abs(np.einsum("mii->mi", r)).max(-1)[:, None, None]
    ridge = 1e-12 * size * np.eye(r.shape[-1])
    back = np.linalg.inv(r + ridge)
    inverse = np.zeros((len(theta), 5, 5))
    free = np.flatnonzero(design.free)
    inverse[:, free[:, None], free[None, :]] = back @ np.swapaxes(back, 1, 2)
    return inverse, np.clip((q**2).sum(-1), 0, 1)
