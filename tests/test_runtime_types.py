"""The annotations of core, diffusion and models are checked at every call of this test suite."""

import importlib
import pkgutil

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from runtime_types import CHECKED

from omfa_jax.core.images import to_signed
from omfa_jax.diffusion.loss import masked_mean
from omfa_jax.diffusion.partial import corrupt
from omfa_jax.models.embeddings import sinusoidal_embedding

LATENT, MASK, ONES = jnp.ones((2, 4, 6, 3)), jnp.ones((2, 4, 6, 1), bool), jnp.ones(2)


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        # a factor with three examples, a latent of another width
        (corrupt, (LATENT, LATENT, MASK, ONES, ONES), (LATENT, LATENT, MASK, ONES, jnp.ones(3))),
        (corrupt, (LATENT, LATENT, MASK, ONES, ONES), (LATENT, LATENT[:, :, 1:], MASK, ONES, ONES)),
        # a mask of numbers
        (masked_mean, (LATENT, MASK), (LATENT, MASK.astype(jnp.float32))),
        (sinusoidal_embedding, (ONES, 4), (MASK, 4)),
        (to_signed, (np.zeros((2, 2, 3), np.uint8),), (np.zeros((2, 2, 3)),)),
    ],
)
def test_a_wrong_shape_or_dtype_is_an_error(function, right, wrong):
    function(*right)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*wrong)


@pytest.mark.parametrize("package", CHECKED)
def test_every_module_is_checked(package):
    names = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    assert names
    for name in names:
        module = importlib.import_module(f"{package}.{name}")
        assert "jaxtyping" in vars(module), f"{package}.{name} was imported before the hook"
