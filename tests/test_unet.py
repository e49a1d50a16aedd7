"""The UNet equals diffusers' UNet2DConditionModel; SDXL's counts; dtype, remat and hooks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import (
    UNET_SHAPES,
    compiled,
    params_of,
    relative_l2,
    run_torch_unet,
    torch_unet,
    unet_inputs,
)

from omfa_jax.core import trees
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import apply_unet, get_unet_config, get_unet_shapes, init_unet
from omfa_jax.models.compute import Compute
from omfa_jax.models.embeddings import sinusoidal_embedding
from omfa_jax.models.initializers import init_params
from omfa_jax.models.transformer import Transformer
from omfa_jax.weights import tensor_names

SMALL = UNET_SHAPES["attention-first"]


@functools.cache
def reference(name: str, height: int, width: int):
    """Return our params, the inputs and diffusers' output."""
    config = UNET_SHAPES[name]
    model = torch_unet(config)
    inputs = unet_inputs(config, height, width)
    return params_of(config, model), inputs, run_torch_unet(model, inputs)


# odd sizes (13, 9): 7 x 5 below must come back to 13 x 9
@pytest.mark.parametrize(
    ("name", "height", "width"), [("sdxl-like", 13, 9), ("attention-first", 12, 8)]
)
def test_equals_diffusers(name, height, width):
    params, inputs, expected = reference(name, height, width)
    came = compiled(functools.partial(apply_unet, UNET_SHAPES[name]), params, *inputs)
    assert came.dtype == jnp.float32
    assert relative_l2(came, expected) <= 5e-6


def test_bfloat16_stays_close_and_ends_in_float32():
    params, inputs, expected = reference("attention-first", 12, 8)
    apply = functools.partial(apply_unet, SMALL, compute=Compute(jnp.bfloat16))
    came = compiled(apply, params, *inputs)
    assert came.dtype == jnp.float32
    assert relative_l2(came, expected) < 3e-2


def test_remat_recomputes_what_it_says():
    inputs = jax.tree.map(jnp.asarray, unet_inputs(SMALL, 4, 4))

    def recomputed(remat):
        def loss(params):
            return apply_unet(SMALL, params, *inputs, Compute(remat=remat)).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(get_unet_shapes(SMALL))).count("remat")

    # the transformers of the attending level (1 down, 2 up) and the middle; seven resnets
    counts = [recomputed(remat) for remat in ("none", "attention", "block", "full")]
    assert counts[0] == 0 and counts[1] >= 3 and counts[2] >= 3 and counts[3] >= counts[2] + 7


@pytest.mark.parametrize("policy", ["attention", "block"])
def test_remat_keeps_gradients(policy):
    rng = np.random.default_rng(0)
    x, context = (
        jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((1, 4, 4, 16), (1, 3, 8))
    )
    shapes = jax.eval_shape(Transformer(2, 2, 4, Compute()).init, jax.random.key(0), x, context)
    params = init_params(shapes, jax.random.key(0))

    def gradient(remat):
        transformer = Transformer(2, 2, 4, Compute(remat=remat))
        return compiled(
            jax.grad(lambda p: jnp.square(transformer.apply(p, x, context)).sum()), params
        )

    kept, again = dict(trees.flatten(gradient("none"))), dict(trees.flatten(gradient(policy)))
    assert kept.keys() == again.keys()
    for path, leaf in kept.items():
        assert relative_l2(again[path], leaf) <= 1e-5, path


def test_constrain_sees_every_kind_of_activation():
    seen = {}

    def constrain(array, axes):
        assert array.ndim == len(axes)
        seen[axes] = array.shape
        return array

    inputs = jax.tree.map(jnp.asarray, unet_inputs(SMALL, 4, 4))
    jax.eval_shape(
        lambda params: apply_unet(SMALL, params, *inputs, Compute(constrain=constrain)),
        get_unet_shapes(SMALL),
    )
    assert set(seen) == {
        ("batch", "height", "width", "channels"),
        ("batch", "length", "channels"),
        ("batch", "length", "heads", "head_dim"),
        ("batch", "length", "hidden"),
    }
    assert seen[("batch", "length", "heads", "head_dim")][2:] == (4, 16)


def test_unknown_remat_is_named():
    with pytest.raises(OmfaError, match=r"unknown remat policy 'blok'; did you mean 'block'"):
        apply_unet(SMALL, {}, *map(jnp.asarray, unet_inputs(SMALL, 4, 4)), Compute(remat="blok"))


def test_sinusoid_is_cosine_first_from_frequency_one():
    came = sinusoidal_embedding(jnp.array([2.0]), 4)
    # half = 2: frequencies 1 and 10000^(-1/2)
    expected = [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02)]
    np.testing.assert_allclose(came[0], expected, rtol=1e-6)


SDXL_PARTS = {
    "conv_in": (2, 11_840),
    "time_embedding": (4, 2_050_560),
    "add_embedding": (4, 5_245_440),
    "down_blocks.0": (22, 5_432_000),
    "down_blocks.1": (116, 60_105_600),
    "down_blocks.2": (434, 757_404_160),
    "mid_block": (226, 413_117_440),
    "up_blocks.0": (656, 1_206_568_960),
    "up_blocks.1": (176, 106_343_680),
    "up_blocks.2": (36, 11_171_840),
    "conv_norm_out": (2, 640),
    "conv_out": (2, 11_524),
}


def test_sdxl_has_exactly_its_tensors():
    rows = tensor_names.make_name_table(get_unet_shapes(get_unet_config("sdxl")))
    parts = {part: [row for row in rows if row.path[0] == part] for part in SDXL_PARTS}
    counts = {
        part: (len(found), sum(int(np.prod(row.shape)) for row in found))
        for part, found in parts.items()
    }
    assert counts == SDXL_PARTS
    assert len(rows) == len({row.key for row in rows}) == 1680
    assert sum(int(np.prod(row.shape)) for row in rows) == 2_567_463_684
    ranks = [len(row.shape) for row in rows]
    assert (ranks.count(4), ranks.count(2), ranks.count(1)) == (51, 743, 886)


def test_initial_weights_have_pytorchs_scale():
    params = init_unet(SMALL, jax.random.key(0))
    stack = params["down_blocks.0"]["attentions.0"]["transformer_blocks"]["ff"]
    kernel = np.asarray(stack["net.2"]["kernel"])
    bound = 1 / np.sqrt(kernel.shape[1])
    assert kernel.shape == (2, 256, 64)
    # uniform in +-1/sqrt(fan_in), fan_in being one layer's and not the stack's
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert np.std(kernel) == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert not np.array_equal(kernel[0], kernel[1])


def test_shapes_are_the_callers_own():
    """They are traced once, and what one caller does to them no other sees."""
    config = get_unet_config("tiny")
    del get_unet_shapes(config)["conv_in"]
    assert "conv_in" in get_unet_shapes(config)
