"""What the world's kernels are compiled with, or the error that says how to get it."""

from omfa_jax.core.errors import OmfaError

try:
    import numba

    from omfa_jax.body.zbuffer_numba import pixel_range, signed_area
except ImportError:
    raise OmfaError(
        "the synthetic world needs numba, which is not installed: pip install 'omfa_jax[body]'"
    ) from None

__all__ = ["kernel", "pixel_range", "signed_area"]

kernel = numba.njit(cache=True, nogil=True, fastmath=True)
