"""OMFA ("One Model For All", arXiv 2508.04559) in JAX: try-on and try-off by partial diffusion."""

__version__ = "0.1.0"
