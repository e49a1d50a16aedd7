"""`omfa train` on one of the tests' eight devices, whose step compiles in half the time.

For tests of what comes before and after the step; test_train_files trains a diffusion model on all.
"""

import functools
from types import SimpleNamespace

import jax
import pytest

from omfa_jax.parallel.mesh import make_mesh
from omfa_jax.train import meshes


def use_one_device(patch: pytest.MonkeyPatch) -> None:
    """Make the meshes of training runs of the first device."""
    patch.setattr(meshes, "jax", SimpleNamespace(device_count=lambda: 1))
    patch.setattr(meshes, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1]))
