"""The dual UNet: the reference's tokens in the main one's self-attention; one training loop."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct as Shape
from tiny_training import SETTINGS, UNET, make_run
from torch_models import nchw, params_of, relative_l2, torch, torch_unet, unet_inputs

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.core.trees import walk
from omfa_jax.diffusion.guidance import branches
from omfa_jax.diffusion.partial import corrupt, network_input
from omfa_jax.diffusion.sample import SamplerSettings, sample
from omfa_jax.models import (
    Compute,
    VAEConfig,
    apply_unet,
    init_unet,
    init_vae,
    reference_features,
    transformer,
    unet,
)
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.pods import pod
from omfa_jax.parallel.rules import UNET_RULES, param_shardings
from omfa_jax.scaling.flops import network_components
from omfa_jax.scaling.plan import Job, plan
from omfa_jax.train.load import load_bundle, load_for_export
from omfa_jax.train.loop import train
from omfa_jax.train.network import network_shapes
from omfa_jax.train.settings import TrainSettings
from omfa_jax.weights.bundle import Bundle, network_apply
from omfa_jax.weights.dual import network_params, prepared
from omfa_jax.weights.frozen import save_frozen

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
    return network_params(DUAL, UNET, KEY)


@functools.cache
def network():
    return jax.jit(network_apply(DUAL, UNET, Compute()))


def canvases(seed):
    """Return (x0, noise, pose) of two examples, a try-on and a try-off."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x0, eps, pose = (jax.random.normal(key, (2, *SETTINGS.canvas.shape)) for key in keys)
    person = SETTINGS.canvas.split(pose)["person"]
    return x0, eps, SETTINGS.canvas.assemble({"person": person})


def inputs_of(x0, eps, pose):
    mask = SETTINGS.canvas.mask(NOISED)
    half = jnp.full(2, 0.5**0.5)
    xt = corrupt(x0, eps, mask, half, half)
    return network_input(SETTINGS.unet_inputs, SETTINGS.canvas, xt, mask, pose)


class Joining:
    """diffusers' attention processor that keeps what self-attention gets, or joins what was kept.

    `scaled_dot_product_attention` over the concatenated tokens, as the published dual UNets do.
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
    features = jax.jit(functools.partial(reference_features, config))(
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
    single = network_params(SETTINGS, UNET, KEY)
    jax.tree.map(np.testing.assert_array_equal, single, init_unet(UNET, KEY))
    jax.tree.map(np.testing.assert_array_equal, single, params["main"])
    off, inputs = network_apply(SETTINGS, UNET, Compute()), inputs_of(*canvases(0))
    assert prepared(off, single, PROMPTS) is None
    ids = jnp.broadcast_to(jnp.array(SETTINGS.time_ids, jnp.float32), (2, 6))
    args = (inputs, ROWS, PROMPTS["context"][ROWS], PROMPTS["pooled"][ROWS], ids)
    plain = jax.make_jaxpr(functools.partial(apply_unet, UNET))(single, *args)
    switched = jax.make_jaxpr(off)(single, inputs, ROWS, ROWS, PROMPTS)
    count = [str(jaxpr).count("concatenate") for jaxpr in (plain, switched)]
    # the time embeddings' three, and a skip for each layer on the way up
    assert count == [3 + 4, 3 + 4]


def test_the_gradient_reaches_all_of_the_reference_that_can_matter(params):
    inputs = inputs_of(*canvases(0))

    def loss(p):
        return jnp.sum(network()(p, inputs, jnp.array([3, 500]), ROWS, PROMPTS) ** 2)

    grads = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.any(leaf)) for _, leaf in walk(grads["main"]))
    dead = {"/".join(path) for path, leaf in walk(grads["reference"]) if not jnp.any(leaf)}
    # what comes after the norm of the last self-attention, and nothing else
    tail = ("conv_norm_out", "conv_out", "up_blocks.1", "up_blocks.0/upsamplers.0")
    tail += ("up_blocks.0/attentions.1/proj_out",)
    every = {"/".join(path) for path, _ in walk(grads["reference"])}
    assert dead == {name for name in every if name.startswith(tail)}


def test_every_condition_matters_and_clean_parts_carry_nothing(params):
    x0, eps, pose = canvases(0)
    t = jnp.array([3, 500])
    first = network()(params, inputs_of(x0, eps, pose), t, ROWS, PROMPTS)
    mask = np.broadcast_to(SETTINGS.canvas.mask(NOISED), first.shape)
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


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_features_once_a_sample_give_the_same_picture(params, guidance):
    x0, noise, pose = canvases(2)
    settings = SamplerSettings(steps=3, guidance=guidance)
    net = network_apply(DUAL, UNET, Compute())

    @functools.partial(jax.jit, static_argnames="cached")
    def run(params, *, cached):
        prepare = prepared(net, params, PROMPTS) if cached else None
        return sample(
            lambda x, t, rows: net(params, x, t, rows, PROMPTS),
            DUAL, settings, noise, x0, NOISED, pose, ROWS, 2, prepare=prepare,
        )  # fmt: skip

    once, every = (np.asarray(run(params, cached=cached)) for cached in (True, False))
    np.testing.assert_allclose(once, every, rtol=0, atol=1e-5)
    mask = np.broadcast_to(SETTINGS.canvas.mask(NOISED), once.shape)
    np.testing.assert_array_equal(once[~mask], np.asarray(x0)[~mask])
    assert np.all(once[mask] != np.asarray(x0)[mask])


def test_the_null_branch_has_features_of_its_own(params):
    x0, _, pose = canvases(0)
    mask = SETTINGS.canvas.mask(NOISED)
    inputs, rows = branches(DUAL, 2.0, x0, mask, pose, ROWS, 2)
    features = network_apply(DUAL, UNET, Compute()).features(params, inputs, rows, PROMPTS)
    other, _ = branches(DUAL, 2.0, canvases(1)[0], mask, canvases(1)[2], ROWS, 2)
    swapped = network_apply(DUAL, UNET, Compute()).features(params, other, rows, PROMPTS)
    for a, b in zip(jax.tree.leaves(features), jax.tree.leaves(swapped), strict=True):
        assert a.shape[1] == 4
        np.testing.assert_array_equal(a[:, 2:], b[:, 2:])
        assert np.all(np.abs(a[:, :2] - b[:, :2]).max((2, 3)) > 1e-4)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dual")
    return workdir, train(make_run(workdir, 4, diffusion=DUAL))


def test_four_steps_are_two_a_restart_and_two(straight, tmp_path):
    _, state = straight
    train(make_run(tmp_path, 2, diffusion=DUAL))
    after = train(make_run(tmp_path, 4, diffusion=DUAL))
    for name in ("params", "ema", "opt_state"):
        pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (state, after)), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
    start = network_params(DUAL, UNET, KEY)["reference"]["conv_in"]["kernel"]
    assert np.abs(start - after.params["reference"]["conv_in"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_the_mesh_does_not_matter(straight, tmp_path, mesh):
    _, state = straight
    other = train(make_run(tmp_path, 4, mesh, diffusion=DUAL))
    for name in ("params", "ema"):
        pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (state, other)), strict=True)
        for a, b in pairs:
            # as for the single UNet: Adam divides by the gradient's size
            np.testing.assert_allclose(a, b, atol=2e-4)
    kernels = [leaf for leaf in jax.tree.leaves(other.params) if leaf.ndim >= 2]
    sharded = sum(leaf.size for leaf in kernels if not leaf.sharding.is_fully_replicated)
    assert sharded > 0.95 * sum(leaf.size for leaf in kernels)


def test_the_reference_lies_as_the_main_unet():
    mesh = make_mesh(MeshSettings(2, 2, 2))
    laid = param_shardings(UNET_RULES, network_shapes(DUAL, UNET), mesh)
    assert laid["main"] == laid["reference"]
    assert laid["main"] == param_shardings(UNET_RULES, network_shapes(SETTINGS, UNET), mesh)


def test_flops_are_the_compilers(monkeypatch):
    """XLA counts a loop's body once, so the stacks are unrolled; norms and softmax are in its."""
    scan = transformer.nn.scan
    monkeypatch.setattr(
        transformer.nn, "scan", lambda block, **how: scan(block, unroll=how["length"], **how)
    )
    slots = ((256, 192), (256, 192), (128, 96))
    for reference in (False, True):
        s = dataclasses.replace(SETTINGS, slots_px=slots, reference=reference)
        config = unet(
            "xs", in_channels=9, block_channels=(64, 128), transformer_depth=(1, 2), heads=(1, 2)
        )
        height, width, _ = s.canvas.shape
        prompts = {
            "context": Shape((3, 77, config.context_dim), jnp.float32),
            "pooled": Shape((3, config.pooled_dim), jnp.float32),
        }
        rows = Shape((1,), jnp.int32)
        lowered = jax.jit(network_apply(s, config, Compute())).lower(
            network_shapes(s, config),
            Shape((1, height, width, 9), jnp.float32),
            rows, rows, prompts,
        )  # fmt: skip
        counted = lowered.cost_analysis()["flops"]  # pyright: ignore[reportOptionalSubscript]
        found = sum(part.total.forward for part in network_components(s, config))
        assert counted == pytest.approx(found, rel=0.02), reference


def test_a_unet_without_self_attention_is_refused():
    config = dataclasses.replace(UNET, transformer_depth=(0, 0))
    with pytest.raises(OmfaError, match="meets in self-attention"):
        network_apply(DUAL, config, Compute())


def test_a_model_folder_says_that_it_is_dual_and_export_refuses_it(straight, tmp_path):
    workdir, state = straight
    small = VAEConfig(block_channels=(8, 8, 8, 8), layers_per_block=1, norm_groups=4)
    bundle = Bundle(DUAL, UNET, small, None, init_vae(small, KEY), jax.device_get(PROMPTS))
    shutil.copytree(workdir, tmp_path / "run")
    save_frozen(tmp_path / "run" / "model", bundle)
    loaded, step = load_bundle(tmp_path / "run")
    assert loaded.settings == DUAL and step == 4
    jax.tree.map(np.testing.assert_array_equal, loaded.unet_params, state.ema)
    with pytest.raises(OmfaError, match="no form in diffusers"):
        load_for_export(tmp_path / "run")


def test_the_plan_says_that_it_does_not_cover_it():
    job = Job(DUAL, UNET, TrainSettings(1, 8), MeshSettings())
    with pytest.raises(OmfaError, match="does not cover the dual UNet"):
        plan(job, pod("h100-8"))
