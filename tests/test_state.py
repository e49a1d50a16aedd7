"""One update: the parameters, the moments, the count and the average, checked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from omfa_jax.train.state import apply_gradients, make_state

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
GRADS = {"a": jnp.array([0.5, 0.25]), "b": jnp.array(-1.0)}


def test_the_average_warms_up_to_its_decay():
    optimizer = optax.sgd(0.1)
    state = make_state(PARAMS, optimizer, 0.2)
    params, average = PARAMS, PARAMS
    # (1 + n) / (10 + n) for n = 0, 1; then the decay, for 3/12 is above it
    for update, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        state = apply_gradients(state, GRADS, optimizer, 0.2)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, GRADS)
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, average, params)
        assert int(state.step) == update + 1
        for name in PARAMS:
            np.testing.assert_allclose(state.params[name], params[name], rtol=1e-6)
            np.testing.assert_allclose(state.ema[name], average[name], rtol=1e-6)


def test_the_average_starts_at_the_parameters():
    state = make_state(PARAMS, optax.sgd(0.1), 0.9)
    for name in PARAMS:
        np.testing.assert_array_equal(state.ema[name], PARAMS[name])


def test_without_a_decay_there_is_no_average():
    optimizer = optax.sgd(0.1)
    state = make_state(PARAMS, optimizer, 0.0)
    assert state.ema is None and apply_gradients(state, GRADS, optimizer, 0.0).ema is None


def test_moments_and_weight_decay_are_the_optimizers_own():
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    state = make_state(PARAMS, optimizer, 0.0)
    params, moments = PARAMS, optimizer.init(PARAMS)
    # growing gradients: with constant ones Adam's update forgets its moments
    for size in (1.0, 2.0, 4.0):
        grads = jax.tree.map(lambda g, size=size: size * g, GRADS)
        state = apply_gradients(state, grads, optimizer, 0.0)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
    for ours, expected in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
