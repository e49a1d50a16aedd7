"""Versions of the libraries that computed a score."""

import importlib.metadata
import platform


def get_versions(*names: str) -> dict[str, str]:
    """Return {distribution: version} of the installed ones."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def get_base_versions() -> dict[str, str]:
    """Return the versions that every score depends on."""
    from omfa_jax import __version__

    python = {"python": platform.python_version(), "omfa_jax": __version__}
    return python | get_versions("numpy", "pillow")
