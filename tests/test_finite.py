"""A state with a number that is none is not saved, whatever its loss said."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from matrix_training import matrix_run

from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.train import loop
from omfa_jax.train.checkpoints.finite_check import require_finite
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step
from omfa_jax.train.state import TrainState


def make_test_state(**changes):
    weights = {"conv_in": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}}
    fields = {"params": weights, "ema": weights, "opt_state": (jnp.zeros((), int), weights)}
    return TrainState(jnp.zeros((), jnp.int32), **{**fields, **changes})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("params", "params/conv_in/kernel"),
        ("ema", "ema/conv_in/kernel"),
        ("opt_state", "opt_state/1/conv_in/kernel"),
    ],
)
def test_every_part_of_the_state_is_looked_at_on_every_device(bad, part, name):
    mesh = make_mesh(MeshSettings(1, 8, 1))
    rows = jax.NamedSharding(mesh, jax.P("fsdp"))
    require_finite(make_test_state(), 3, 0)
    require_finite(make_test_state(ema=None), 3, 0)
    broken = jax.device_put(jnp.ones((8, 4)).at[7, 3].set(bad), rows)
    weights = {"conv_in": {"kernel": broken, "bias": jnp.ones(4)}}
    changed = (jnp.zeros((), int), weights) if part == "opt_state" else weights
    with pytest.raises(OmfaError, match=rf"after step 3 1 of 8 arrays .*\({name}\)") as told:
        require_finite(make_test_state(**{part: changed}), 3, 2)
    assert "step 2 is the last one saved" in str(told.value) and "\n" not in str(told.value)


def test_what_an_update_broke_is_not_saved(tmp_path, monkeypatch):
    make_step = loop.make_step

    def breaking(*arguments, **options):
        step = make_step(*arguments, **options)

        def broken(state, *rest):
            state, metrics = step(state, *rest)
            if int(state.step) == 3:
                params = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
                state = dataclasses.replace(state, params=params)
            return state, metrics

        broken.lower = step.lower
        return broken

    monkeypatch.setattr(loop, "make_step", breaking)
    with pytest.raises(OmfaError, match=r"after step 3 \d+ of \d+ .*step 2 is the last one saved"):
        loop.train(matrix_run(tmp_path, 3, save_every_steps=1))
    assert find_newest_complete_step(tmp_path / "checkpoints") == 2
