import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS, make_noised_table
from omfa_jax.diffusion.canvas import Canvas

SPATIAL = Canvas(((4, 3), (4, 3), (2, 2)), 5)
CHANNEL = Canvas(((4, 3),) * 3, 5, "channel")
TABLE = [[False, True, False], [True, True, False], [True, True, True], [False, False, True]]


def parts_of(canvas):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, h, w, canvas.latent_channels) for h, w in canvas.slots]
    return {
        name: jax.random.normal(key, shape)
        for name, key, shape in zip(COMPONENTS, keys, shapes, strict=True)
    }


@pytest.mark.parametrize("canvas", [SPATIAL, CHANNEL])
def test_split_undoes_assemble(canvas):
    parts = parts_of(canvas)
    whole = canvas.assemble(parts)
    assert whole.shape == (2, *canvas.shape)
    for name, part in canvas.split(whole).items():
        np.testing.assert_array_equal(part, parts[name])


def test_shapes():
    assert SPATIAL.shape == (4, 8, 5)
    assert CHANNEL.shape == (4, 3, 15)
    assert (SPATIAL.mask_channels, CHANNEL.mask_channels) == (1, 3)


@pytest.mark.parametrize("canvas", [SPATIAL, CHANNEL])
@pytest.mark.parametrize("noised", TABLE)
def test_mask_covers_exactly_the_noised_components(canvas, noised):
    mask = jnp.broadcast_to(canvas.make_mask(jnp.array([noised])), (1, *canvas.shape))
    for name, part in canvas.split(mask).items():
        assert bool(part.all()) == bool(part.any()) == noised[COMPONENTS.index(name)]


def test_padding_is_never_noised():
    everything = SPATIAL.make_mask(jnp.ones((1, 3), bool))
    assert int(everything.sum()) == 4 * 3 + 4 * 3 + 2 * 2
    ones = {name: jnp.ones_like(part) for name, part in parts_of(SPATIAL).items()}
    padding = SPATIAL.assemble(ones)[:, 2:, 6:]
    assert padding.size and not padding.any()


@pytest.mark.parametrize("canvas", [SPATIAL, CHANNEL])
def test_masks_are_per_example(canvas):
    table = jnp.array(TABLE)
    together = canvas.make_mask(table)
    for row in range(len(TABLE)):
        np.testing.assert_array_equal(
            together[row : row + 1], canvas.make_mask(table[row : row + 1])
        )
    given = canvas.make_mask_input(together)
    assert given.shape == (4, *canvas.shape[:2], canvas.mask_channels)


def test_the_network_is_told_which_components_are_noised():
    table = jnp.array(TABLE)
    np.testing.assert_array_equal(CHANNEL.make_mask_input(CHANNEL.make_mask(table))[:, 1, 2], table)
    mask = SPATIAL.make_mask(table)
    np.testing.assert_array_equal(SPATIAL.make_mask_input(mask), mask)


def test_a_missing_component_is_zero():
    parts = parts_of(SPATIAL)
    whole = SPATIAL.assemble({"person": parts["person"]})
    assert not SPATIAL.split(whole)["garment"].any()
    np.testing.assert_array_equal(SPATIAL.split(whole)["person"], parts["person"])


def test_wrong_sizes_are_errors():
    with pytest.raises(OmfaError, match=r"latent of garment.*\(2, 4, 3, 5\)"):
        SPATIAL.assemble({"garment": jnp.zeros((2, 3, 4, 5))})
    with pytest.raises(OmfaError, match="one size"):
        Canvas(((4, 3), (4, 3), (2, 2)), 5, "channel")
    with pytest.raises(OmfaError, match="did you mean 'spatial'"):
        Canvas(((4, 3),) * 3, 5, "spacial")


def test_noised_table_follows_the_tasks():
    from tiny_problem import TASKS

    np.testing.assert_array_equal(
        make_noised_table(TASKS), [[False, True, False], [True, False, False], [True, True, False]]
    )
