"""AdamW and Muon: what each moves and how far; a mesh or a restart changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrix_training import matrix_run
from optax.contrib import MuonDimensionNumbers
from small_settings import make_optimizer_settings
from tiny_training import UNET

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import flatten
from omfa_jax.models import init_unet
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES
from omfa_jax.train.loop import train
from omfa_jax.train.optimizer import MUON_RMS, get_muon_axes, make_optimizer, make_schedule
from omfa_jax.train.state import get_state_shardings, make_state

MUON = make_optimizer_settings(name="muon", learning_rate=1e-3, warmup_steps=2)
STACKED = ("mid_block", "attentions.0", "transformer_blocks", "attn1", "to_q", "kernel")
CONV = ("mid_block", "resnets.0", "conv1", "kernel")


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init_unet(UNET, jax.random.key(0)))()


@pytest.fixture(scope="module")
def few(params):
    """Every kind of weight: at the ends, stacked over layers, convolutions, biases and scales."""
    names = ("conv_in", "time_embedding", "mid_block", "conv_norm_out")
    return {name: params[name] for name in names}


def test_warm_up_then_constant_or_cosine():
    constant = make_schedule(make_optimizer_settings(learning_rate=2.0, warmup_steps=4), 10)
    cosine = make_schedule(
        make_optimizer_settings(learning_rate=2.0, warmup_steps=4, lr_schedule="cosine"), 10
    )
    assert [float(constant(i)) for i in (0, 2, 4, 9)] == [0.0, 1.0, 2.0, 2.0]
    assert [float(cosine(i)) for i in (0, 2, 4)] == [0.0, 1.0, 2.0]
    assert float(cosine(7)) == pytest.approx(1.0)
    assert float(cosine(10)) == pytest.approx(0.0, abs=1e-7)


def test_muon_takes_the_kernels_between_the_ends(params):
    matrices = dict(flatten(get_muon_axes(params)))
    for path, matrix in matrices.items():
        ends = path[0] in ("conv_in", "conv_out")
        assert (matrix is None) == (path[-1] != "kernel" or ends), path
    assert matrices[STACKED] == MuonDimensionNumbers((1,), 2)
    assert matrices[CONV] == MuonDimensionNumbers((0, 1, 2), 3)


def test_a_muon_step_moves_every_direction_of_every_layer_alike(few):
    """Singular values of an update lie around 1 (the quintic's band), times Adam's usual size."""
    settings = make_optimizer_settings(
        name="muon", learning_rate=1.0, warmup_steps=0, weight_decay=0.0, clip_norm=0.0
    )
    optimizer = make_optimizer(settings, 10)
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(few))))
    grads = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), few)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(few), few)
    moved = dict(flatten(updates))
    for matrix in (*moved[STACKED], moved[CONV].reshape(-1, moved[CONV].shape[-1])):
        size = MUON_RMS * max(matrix.shape) ** 0.5
        values = np.linalg.svd(np.asarray(matrix), compute_uv=False) / size
        assert values.min() > 0.5 and values.max() < 1.4
    adamw = optax.nadamw(1.0, settings.b1, settings.b2, weight_decay=0.0)
    others = dict(flatten(jax.jit(adamw.update)(grads, adamw.init(few), few)[0]))
    for path in (("conv_in", "bias"), ("conv_in", "kernel"), ("conv_norm_out", "scale")):
        np.testing.assert_allclose(moved[path], others[path], rtol=1e-6)


def test_a_muon_run_is_the_same_after_a_restart(tmp_path):
    straight = train(matrix_run(tmp_path / "straight", 2, optimizer=MUON))
    train(matrix_run(tmp_path / "parts", 1, optimizer=MUON))
    parts = train(matrix_run(tmp_path / "parts", 2, optimizer=MUON))
    momentum = straight.opt_state[1].inner_states["muon"].inner_state[0].mu
    assert np.abs(momentum["kernel"]).max() > 0
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_muon_is_the_same_on_a_mesh(few):
    few = {**few, "mid_block": {"attentions.0": few["mid_block"]["attentions.0"]}}
    grads = jax.tree.map(jnp.cos, few)
    optimizer = make_optimizer(MUON, 10)
    alone, _ = jax.jit(optimizer.update)(grads, optimizer.init(few), few)

    mesh = make_mesh(MeshSettings(2, 2, 2), jax.devices())
    start = make_state(few, optimizer, 0.0)
    layout = get_state_shardings(jax.eval_shape(lambda: start), UNET_RULES, mesh)
    state = jax.device_put(start, layout)
    update = jax.jit(optimizer.update, out_shardings=(layout.params, layout.opt_state))
    together, after = update(jax.device_put(grads, layout.params), state.opt_state, state.params)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    momentum = after[1].inner_states["muon"].inner_state[0].mu
    kernel = ("mid_block", "attentions.0", "proj_in", "kernel")
    assert not dict(flatten(momentum))[kernel].sharding.is_fully_replicated


def test_other_names_are_refused():
    with pytest.raises(OmfaError, match=r"optimizer\.name: .* got 'muom'; did you mean 'muon'"):
        make_optimizer_settings(name="muom")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_first_moment_may_be_kept_in_half_the_bytes(few, name):
    def moments(mu_dtype):
        optimizer = make_optimizer(
            make_optimizer_settings(name=name, warmup_steps=0, mu_dtype=mu_dtype), 10
        )
        state = jax.jit(optimizer.init)(few)
        grads = jax.tree.map(lambda leaf: jnp.ones_like(leaf) * 1e-3, few)
        updates, state = jax.jit(optimizer.update)(grads, state, few)
        return updates, {str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim > 0}

    whole, kinds = moments("float32")
    assert kinds == {"float32"}
    half, kinds = moments("bfloat16")
    assert kinds == {"float32", "bfloat16"}
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(half), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-8)
