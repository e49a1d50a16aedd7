"""Distances between two sets of features: Frechet (FID, CLIP-FID) and polynomial kernel (KID)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from omfa_jax.core.errors import OmfaError

Features = Float[np.ndarray, "n d"]
PERCENTILES = (2.5, 97.5)


def compute_frechet_from_features(one: Features, other: Features) -> float:
    """Return the Frechet distance of the Gaussians fitted to two feature sets (Heusel et al. 2017).

    With the rows of A and B centred, the eigenvalues of C1 C2 are the squared singular values of
    A B^T up to a factor of counts. With fewer images than features that matrix is the smaller one,
    so no covariance is computed.
    """
    _require_two(one, other)
    one, other = one.astype(np.float64), other.astype(np.float64)
    means = one.mean(axis=0), other.mean(axis=0)
    # the covariance path costs d^3, the other n^3: take the smaller matrix
    if max(len(one), len(other)) > one.shape[1]:
        covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
        return compute_frechet(means[0], covariances[0], means[1], covariances[1])
    one, other = one - means[0], other - means[1]
    freedom = len(one) - 1, len(other) - 1
    spread = (one**2).sum() / freedom[0] + (other**2).sum() / freedom[1]
    shared = np.linalg.svd(one @ other.T, compute_uv=False).sum() / np.sqrt(freedom[0] * freedom[1])
    shift = means[0] - means[1]
    return float(shift @ shift + spread - 2 * shared)


def compute_frechet(
    mean: Float64[np.ndarray, " d"],
    covariance: Float64[np.ndarray, "d d"],
    other_mean: Float64[np.ndarray, " d"],
    other_covariance: Float64[np.ndarray, "d d"],
) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The eigenvalues of C1 C2 are those of R C2 R with R = C1^(1/2), which is symmetric. This avoids
    the complex matrix square root of scipy, and works for singular covariances (fewer images than
    features).
    """
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    # rounding gives a singular covariance tiny negative eigenvalues
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ np.atleast_2d(other_covariance) @ root)
    shift = mean - other_mean
    spread = np.trace(np.atleast_2d(covariance)) + np.trace(np.atleast_2d(other_covariance))
    return float(shift @ shift + spread - 2 * np.sqrt(inner.clip(min=0)).sum())


@dataclass(frozen=True)
class KernelDistance:
    """The mean over subsets and their central 95%; no interval if there is only one subset."""

    value: float
    interval: tuple[float, float] | None


def compute_kernel_distance(
    one: Features, other: Features, *, subsets: int, subset_size: int, small: str, seed: int
) -> KernelDistance:
    """Return the unbiased squared MMD of the kernel (x.y/d + 1)^3 over seeded subsets.

    Binkowski et al. 2018. With fewer images than `subset_size`, a subset has all of them (`small`
    "all", as in clean-fid) or half of them ("half", so that the subsets differ and give an
    interval).
    """
    _require_two(one, other)
    one, other = one.astype(np.float64), other.astype(np.float64)
    fewest = min(len(one), len(other))
    size = min(subset_size, fewest)
    if small == "half":
        size = min(subset_size, max(2, fewest // 2))
    random = np.random.default_rng(seed)
    # every subset would be the complete set
    if size == len(one) == len(other):
        return KernelDistance(_mmd(one, other), None)
    found = np.array(
        [
            _mmd(
                one[random.choice(len(one), size, replace=False)],
                other[random.choice(len(other), size, replace=False)],
            )
            for _ in range(subsets)
        ]
    )
    low, high = np.percentile(found, PERCENTILES)
    return KernelDistance(float(found.mean()), (float(low), float(high)))


def _mmd(one: Features, other: Features) -> float:
    count, features = one.shape
    own = (one @ one.T / features + 1) ** 3
    others = (other @ other.T / features + 1) ** 3
    cross = (one @ other.T / features + 1) ** 3
    # the unbiased estimate leaves out the pairs of an image with itself
    within = own.sum() - np.trace(own) + others.sum() - np.trace(others)
    return float(within / (count * (count - 1)) - 2 * cross.mean())


def _require_two(one: Features, other: Features) -> None:
    if min(len(one), len(other)) < 2:
        raise OmfaError(
            f"a distance between sets needs at least 2 images each, got {len(one)} and {len(other)}"
        )
