"""The numba decorator of all kernels; without numba, an error that names the extra to install."""

from omfa_jax.core.errors import require_modules

require_modules("the synthetic world", "body", "numba")

import numba  # noqa: E402

from omfa_jax.body.zbuffer_numba import compute_pixel_range, compute_signed_area  # noqa: E402

__all__ = ["compute_pixel_range", "compute_signed_area", "kernel"]

# cache: compiling takes seconds, which every worker process would pay again
kernel = numba.njit(cache=True, nogil=True, fastmath=True)
