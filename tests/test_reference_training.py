"""The reference UNet in training: its gradient on a mesh, its model folder."""

import dataclasses

import jax
import jax.numpy as jnp
import matrix_training
import numpy as np
import pytest
from matrix_training import matrix_run
from small_settings import make_train_settings
from tiny_training import SETTINGS, UNET, CountingBatches, make_run

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.trees import flatten
from omfa_jax.models import VAEConfig, init_vae
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.parallel.global_arrays import make_global_batch, put_global
from omfa_jax.parallel.mesh import MeshSettings, make_mesh, make_replicated_sharding
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.planning.job import TrainingJob
from omfa_jax.planning.plan import make_plan
from omfa_jax.train.checkpoints.checkpoint_weights import (
    load_checkpoint_model,
    load_export_arguments,
)
from omfa_jax.train.gradient import make_sharded_gradient
from omfa_jax.train.loop import train
from omfa_jax.train.network import get_network_shapes
from omfa_jax.weights.model_folder import save_model_folder
from omfa_jax.weights.omfa_model import Model

DUAL = dataclasses.replace(SETTINGS, reference=True)
# with attention in the first level alone, whose gradient compiles in less time
SMALL = dataclasses.replace(UNET, transformer_depth=(1, 0))
KEY = jax.random.key(0)
PROMPTS = {
    "context": jax.random.normal(KEY, (3, 2, UNET.context_dim)),
    "pooled": jax.random.normal(KEY, (3, UNET.pooled_dim)),
}


def compute_gradient(workdir, sizes):
    """Return the loss and the gradient of one batch on a mesh of `sizes`."""
    run = make_run(workdir, 1, sizes, diffusion=DUAL, unet=SMALL)
    start = init_network_params(SMALL, KEY, has_reference=True)
    # away from the start, where layers that begin at zero hide the gradient of those before them
    moved = jax.tree.map(
        lambda leaf: leaf + 0.02 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), start
    )
    shardings = make_param_shardings(UNET_RULES, get_network_shapes(DUAL, SMALL), run.mesh)
    replicated = jax.tree.map(lambda _: make_replicated_sharding(run.mesh), run.constants)
    gradient = jax.jit(make_sharded_gradient(run.objective, shardings, run.mesh))
    loss, _, grads = gradient(
        put_global(jax.device_get(moved), shardings),
        put_global(run.constants, replicated),
        make_global_batch(run.mesh, next(CountingBatches())),
        jax.random.key(1),
        jnp.int32(0),
    )
    return float(loss), grads


def test_the_mesh_does_not_matter(tmp_path):
    """The gradient; what is done with it (test_training) does not know which UNet it is of."""
    loss, grads = compute_gradient(tmp_path, (1, 1, 1))
    other_loss, others = compute_gradient(tmp_path, (2, 2, 2))
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert all(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(grads["main"]))
    # what comes after the norm of the last self-attention has no effect, and nothing else
    last = "up_blocks.1/attentions.1"
    parts = [f"{last}/transformer_blocks/{name}" for name in ("attn", "ff", "norm2", "norm3")]
    tail = ("conv_norm_out", "conv_out", f"{last}/proj_out", *parts)
    reached = {"/".join(path): bool(jnp.any(leaf)) for path, leaf in flatten(grads["reference"])}
    assert reached == {name: not name.startswith(tail) for name in reached}
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)
    assert jnp.abs(grads["reference"]["conv_in"]["kernel"]).max() > 1e-3 * largest
    kernels = [leaf for leaf in jax.tree.leaves(others) if leaf.ndim >= 2]
    sharded = sum(leaf.size for leaf in kernels if not leaf.sharding.is_fully_replicated)
    assert sharded > 0.95 * sum(leaf.size for leaf in kernels)


def test_the_reference_lies_as_the_main_unet():
    mesh = make_mesh(MeshSettings(2, 2, 2))
    laid = make_param_shardings(UNET_RULES, get_network_shapes(DUAL, UNET), mesh)
    assert laid["main"] == laid["reference"]
    assert laid["main"] == make_param_shardings(
        UNET_RULES, get_network_shapes(SETTINGS, UNET), mesh
    )


def test_a_model_folder_says_that_it_is_dual_and_export_refuses_it(tmp_path):
    main_unet = matrix_training.make_apply(make_mesh(MeshSettings(), jax.devices()[:1]))
    run = matrix_run(
        tmp_path / "run", 1, apply=lambda params, *rest: main_unet(params["main"], *rest)
    )
    both = {"main": matrix_training.start(), "reference": matrix_training.start()}
    state = train(dataclasses.replace(run, start=lambda: both))
    small = VAEConfig(block_channels=(8, 8, 8, 8), layers_per_block=1, norm_groups=4)
    model = Model(DUAL, UNET, small, None, init_vae(small, KEY), jax.device_get(PROMPTS))
    save_model_folder(tmp_path / "run" / "model", model)
    loaded, step = load_checkpoint_model(tmp_path / "run")
    assert loaded.settings == DUAL and step == 1
    jax.tree.map(np.testing.assert_array_equal, loaded.unet_params, state.ema)
    with pytest.raises(OmfaError, match="no form in diffusers"):
        load_export_arguments(tmp_path / "run")


def test_the_plan_says_that_it_does_not_cover_it():
    job = TrainingJob(DUAL, UNET, make_train_settings(1, 8), MeshSettings())
    with pytest.raises(OmfaError, match="does not cover the reference UNet"):
        make_plan(job, parse_topology("h100-8"))
