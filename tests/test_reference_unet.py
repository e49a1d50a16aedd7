"""The reference UNet: its tokens in the main UNet's self-attention; one training loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiler_flops import forward_and_step
from jax import ShapeDtypeStruct as Shape
from tiny_training import SETTINGS, UNET
from torch_models import nchw, params_of, relative_l2, torch, torch_unet, unet_inputs

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.diffusion.denoising_loop import SamplerSettings, sample
from omfa_jax.diffusion.guidance import make_cfg_inputs
from omfa_jax.diffusion.partial import corrupt, make_network_input
from omfa_jax.models import (
    Compute,
    apply_unet,
    compute_reference_features,
    get_unet_config,
    init_unet,
    transformer,
)
from omfa_jax.models.reference_unet import cache_reference, init_network_params
from omfa_jax.planning.flops import count_network_flops
from omfa_jax.train.network import get_network_shapes
from omfa_jax.weights.omfa_model import make_apply_fn

DUAL = dataclasses.replace(SETTINGS, reference=True)
KEY = jax.random.key(0)
NOISED = jnp.array([[False, True, False], [True, False, False]])
ROWS = jnp.arange(2)
PROMPTS = {
    "context": jax.random.normal(KEY, (3, 2, UNET.context_dim)),
    "pooled": jax.random.normal(KEY, (3, UNET.pooled_dim)),
}


@pytest.fixture(scope="module")
def params():
    return init_network_params(UNET, KEY, has_reference=True)


@functools.cache
def network():
    return jax.jit(make_apply_fn(DUAL, UNET, Compute()))


def canvases(seed):
    """Return (x0, noise, pose) of two examples, a try-on and a try-off."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x0, eps, pose = (jax.random.normal(key, (2, *SETTINGS.canvas.shape)) for key in keys)
    person = SETTINGS.canvas.split(pose)["person"]
    return x0, eps, SETTINGS.canvas.assemble({"person": person})


def inputs_of(x0, eps, pose):
    mask = SETTINGS.canvas.make_mask(NOISED)
    half = jnp.full(2, 0.5**0.5)
    xt = corrupt(x0, eps, mask, half, half)
    return make_network_input(SETTINGS.unet_inputs, SETTINGS.canvas, xt, mask, pose)


class Joining:
    """diffusers' attention processor that keeps what self-attention gets, or joins what was kept.

    `scaled_dot_product_attention` over the concatenated tokens, as published reference UNets do.
    """

    def __init__(self, kept, *, joining=False):
        self.kept, self.joining = kept, joining

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is None and self.joining:
            seen = torch.cat([hidden_states, self.kept[attn.place]], dim=1)
        elif encoder_hidden_states is None:
            self.kept[attn.place] = hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, seen), (attn.to_v, seen))
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


def test_equals_two_unets_of_diffusers_joined_in_self_attention():
    config = UNET
    reference, main = torch_unet(config, 1), torch_unet(config, 2)
    kept: dict = {}
    keeping, joining = Joining(kept), Joining(kept, joining=True)
    for model, processor in ((reference, keeping), (main, joining)):
        model.set_attn_processor(processor)  # pyright: ignore[reportArgumentType]
        for name, module in model.named_modules():
            module.place = name
    x, t, context, pooled, ids = unet_inputs(config, 6, 4)
    clean = unet_inputs(config, 4, 5)[0]

    def torch_run(model, image, time):
        text = {"text_embeds": torch.tensor(pooled), "time_ids": torch.tensor(ids)}
        with torch.no_grad():
            return model(
                nchw(image), torch.tensor(time), torch.tensor(context), added_cond_kwargs=text
            ).sample

    torch_run(reference, clean, np.zeros_like(t))
    expected = torch_run(main, x, t).permute(0, 2, 3, 1).numpy()
    features = jax.jit(functools.partial(compute_reference_features, config))(
        params_of(config, reference), clean, context, pooled, ids
    )
    apply = jax.jit(functools.partial(apply_unet, config))
    given = (params_of(config, main), x, t, context, pooled, ids)
    came = apply(*given, features=features)
    assert relative_l2(came, expected) <= 5e-6
    alone = apply(*given)
    assert relative_l2(alone, expected) > 1e-3
    # no tokens to join: the UNet as it is
    none = jax.tree.map(lambda tokens: tokens[:, :, :0], features)
    np.testing.assert_allclose(apply(*given, features=none), alone, rtol=0, atol=1e-6)


def test_off_is_the_single_unet(params):
    single = init_network_params(UNET, KEY, has_reference=False)
    jax.tree.map(np.testing.assert_array_equal, single, init_unet(UNET, KEY))
    jax.tree.map(np.testing.assert_array_equal, single, params["main"])
    off, inputs = make_apply_fn(SETTINGS, UNET, Compute()), inputs_of(*canvases(0))
    assert cache_reference(off, single, PROMPTS) is None
    ids = jnp.broadcast_to(jnp.array(SETTINGS.time_ids, jnp.float32), (2, 6))
    args = (inputs, ROWS, PROMPTS["context"][ROWS], PROMPTS["pooled"][ROWS], ids)
    plain = jax.make_jaxpr(functools.partial(apply_unet, UNET))(single, *args)
    switched = jax.make_jaxpr(off)(single, inputs, ROWS, ROWS, PROMPTS)
    count = [str(jaxpr).count("concatenate") for jaxpr in (plain, switched)]
    # the time embeddings' three, and a skip for each layer on the way up
    assert count == [3 + 4, 3 + 4]


def test_every_condition_matters_and_clean_parts_carry_nothing(params):
    x0, eps, pose = canvases(0)
    t = jnp.array([3, 500])
    first = network()(params, inputs_of(x0, eps, pose), t, ROWS, PROMPTS)
    mask = np.broadcast_to(SETTINGS.canvas.make_mask(NOISED), first.shape)
    assert not np.any(np.where(mask, 0, first)) and np.all(first[mask] != 0)
    others = dict(zip(("x0", "pose"), (canvases(1)[0], canvases(1)[2]), strict=True))
    for name in COMPONENTS:
        parts = SETTINGS.canvas.split(x0) | {name: SETTINGS.canvas.split(others["x0"])[name]}
        changed = network()(
            params, inputs_of(SETTINGS.canvas.assemble(parts), eps, pose), t, ROWS, PROMPTS
        )
        assert np.all(np.abs(first - changed).max((1, 2, 3)) > 1e-4), name
    posed = network()(params, inputs_of(x0, eps, others["pose"]), t, ROWS, PROMPTS)
    assert np.all(np.abs(first - posed).max((1, 2, 3)) > 1e-4)
    text = network()(params, inputs_of(x0, eps, pose), t, ROWS[::-1], PROMPTS)
    assert np.all(np.abs(first - text).max((1, 2, 3)) > 1e-4)


def test_features_once_a_sample_give_the_same_picture(params):
    x0, noise, pose = canvases(2)
    settings = SamplerSettings(steps=3, guidance=2.0)
    net = make_apply_fn(DUAL, UNET, Compute())

    @functools.partial(jax.jit, static_argnames="cached")
    def run(params, *, cached):
        prepare = cache_reference(net, params, PROMPTS) if cached else None
        return sample(
            lambda x, t, rows: net(params, x, t, rows, PROMPTS),
            DUAL,
            settings,
            noise=noise,
            x0=x0,
            noised=NOISED,
            pose=pose,
            prompt=ROWS,
            null_prompt=2,
            prepare=prepare,
        )

    once, every = (np.asarray(run(params, cached=cached)) for cached in (True, False))
    np.testing.assert_allclose(once, every, rtol=0, atol=1e-5)
    mask = np.broadcast_to(SETTINGS.canvas.make_mask(NOISED), once.shape)
    np.testing.assert_array_equal(once[~mask], np.asarray(x0)[~mask])
    assert np.all(once[mask] != np.asarray(x0)[mask])


def test_the_null_branch_has_features_of_its_own(params):
    x0, _, pose = canvases(0)
    mask = SETTINGS.canvas.make_mask(NOISED)
    inputs, rows = make_cfg_inputs(DUAL, 2.0, x0, mask, pose, ROWS, 2)
    compute_features = jax.jit(make_apply_fn(DUAL, UNET, Compute()).compute_features)
    features = compute_features(params, inputs, rows, PROMPTS)
    other, _ = make_cfg_inputs(DUAL, 2.0, canvases(1)[0], mask, canvases(1)[2], ROWS, 2)
    swapped = compute_features(params, other, rows, PROMPTS)
    for a, b in zip(jax.tree.leaves(features), jax.tree.leaves(swapped), strict=True):
        assert a.shape[1] == 4
        np.testing.assert_array_equal(a[:, 2:], b[:, 2:])
        assert np.all(np.abs(a[:, :2] - b[:, :2]).max((2, 3)) > 1e-4)


def test_flops_are_the_compilers(monkeypatch):
    """XLA counts a loop's body once, so the stacks are unrolled; norms and softmax are in its.

    Without a reference UNet, of its canvas: test_flops.
    """
    scan = transformer.nn.scan
    monkeypatch.setattr(
        transformer.nn, "scan", lambda block, **how: scan(block, unroll=how["length"], **how)
    )
    slots = ((256, 192), (256, 192), (128, 96))
    s = dataclasses.replace(SETTINGS, slots_px=slots, reference=True)
    config = get_unet_config(
        "xs", in_channels=9, block_channels=(64, 128), transformer_depth=(1, 2), heads=(1, 2)
    )
    height, width, _ = s.canvas.shape
    prompts = {
        "context": Shape((3, 77, config.context_dim), jnp.float32),
        "pooled": Shape((3, config.pooled_dim), jnp.float32),
    }
    rows = Shape((1,), jnp.int32)
    forward, step = forward_and_step(
        make_apply_fn(s, config, Compute()),
        get_network_shapes(s, config),
        Shape((1, height, width, 9), jnp.float32),
        *(rows, rows, prompts),
    )
    totals = [count.total for count in count_network_flops(s, config)]
    assert sum(one.forward for one in totals) == pytest.approx(forward, rel=0.02)
    assert sum(one.step for one in totals) == pytest.approx(step, rel=0.02)


def test_a_unet_without_self_attention_is_refused():
    config = dataclasses.replace(UNET, transformer_depth=(0, 0))
    with pytest.raises(OmfaError, match="works through self-attention"):
        make_apply_fn(DUAL, config, Compute())
