"""Robust least squares by Levenberg-Marquardt, for many small problems under `vmap`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# residuals at x: robust (k, 2) and plain (m,); and their derivatives by x (k, 2, n), (m, n)
Rows = tuple[Float[Array, "k 2"], Float[Array, "m"]]
Linearised = tuple[Rows, tuple[Float[Array, "k 2 n"], Float[Array, "m n"]]]
_DAMPING, _EASE, _BRAKE = 1e-2, 0.3, 5.0


def compute_cost(
    rows: Rows, weights: Float[Array, "k"], scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Return sum_k weights * rho(|r_k|) + sum m^2, rho(e) = e^2 / (1 + e^2/scale^2).

    Source: the Geman-McClure function, as in SMPLify.
    """
    seen, plain = rows
    squared = (seen**2).sum(-1)
    return (weights * squared / (1 + squared / scale**2)).sum() + (plain**2).sum()


def minimize(
    residuals: Callable[[Float[Array, "n"]], Rows],
    linearise: Callable[[Float[Array, "n"]], Linearised],
    start: Float[Array, "n"],
    weights: Float[Array, "k"],
    scales: Float[Array, "steps"],
) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """Return x after one step for each of `scales`, and its cost at the last scale.

    A step solves the damped normal equations of the reweighted residuals, which have the gradient
    of the robust cost, and is accepted only if the cost decreases.
    """

    def step(state: tuple, scale: Float[Array, ""]) -> tuple[tuple, None]:
        x, damping, _ = state
        rows, (seen_by_x, plain_by_x) = linearise(x)
        seen, plain = rows
        robust = weights / (1 + (seen**2).sum(-1) / scale**2) ** 2
        root = jnp.sqrt(robust)[:, None]
        r = jnp.concatenate([(root * seen).ravel(), plain])
        by_x = jnp.concatenate([(root[..., None] * seen_by_x).reshape(-1, len(x)), plain_by_x])
        normal = by_x.T @ by_x
        damped = normal + jnp.diag(damping * jnp.diagonal(normal) + 1e-3)
        moved = x - jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(damped), True), by_x.T @ r)
        # a failed factorisation gives NaN, which compares as not better
        value, trial = (
            compute_cost(rows, weights, scale),
            compute_cost(residuals(moved), weights, scale),
        )
        better = trial < value
        damping = jnp.clip(damping * jnp.where(better, _EASE, _BRAKE), 1e-6, 1e6)
        return (jnp.where(better, moved, x), damping, jnp.where(better, trial, value)), None

    initial = (start, jnp.asarray(_DAMPING), jnp.asarray(jnp.inf))
    (x, _, value), _ = jax.lax.scan(step, initial, scales)
    return x, value
