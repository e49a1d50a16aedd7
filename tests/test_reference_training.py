"""The reference UNet in the one training loop: restarts, meshes, its model folder."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from small_settings import make_train_settings
from tiny_training import SETTINGS, UNET, make_run

from omfa_jax.core.errors import OmfaError
from omfa_jax.models import VAEConfig, init_vae
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.planning.plan import TrainingJob, make_plan
from omfa_jax.train.checkpoints.checkpoint_weights import (
    load_checkpoint_model,
    load_export_arguments,
)
from omfa_jax.train.loop import train
from omfa_jax.train.network import get_network_shapes
from omfa_jax.weights.model_folder import save_model_folder
from omfa_jax.weights.omfa_model import Model

DUAL = dataclasses.replace(SETTINGS, reference=True)
KEY = jax.random.key(0)
PROMPTS = {
    "context": jax.random.normal(KEY, (3, 2, UNET.context_dim)),
    "pooled": jax.random.normal(KEY, (3, UNET.pooled_dim)),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dual")
    return workdir, train(make_run(workdir, 4, diffusion=DUAL))


def test_the_mesh_does_not_matter(straight, tmp_path):
    _, state = straight
    other = train(make_run(tmp_path, 4, (2, 2, 2), diffusion=DUAL))
    for name in ("params", "ema"):
        pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (state, other)), strict=True)
        for a, b in pairs:
            # as for the single UNet: Adam divides by the gradient's size
            np.testing.assert_allclose(a, b, atol=2e-4)
    start = init_network_params(UNET, KEY, has_reference=True)["reference"]["conv_in"]["kernel"]
    assert np.abs(start - state.params["reference"]["conv_in"]["kernel"]).max() > 1e-4
    kernels = [leaf for leaf in jax.tree.leaves(other.params) if leaf.ndim >= 2]
    sharded = sum(leaf.size for leaf in kernels if not leaf.sharding.is_fully_replicated)
    assert sharded > 0.95 * sum(leaf.size for leaf in kernels)


def test_the_reference_lies_as_the_main_unet():
    mesh = make_mesh(MeshSettings(2, 2, 2))
    laid = make_param_shardings(UNET_RULES, get_network_shapes(DUAL, UNET), mesh)
    assert laid["main"] == laid["reference"]
    assert laid["main"] == make_param_shardings(
        UNET_RULES, get_network_shapes(SETTINGS, UNET), mesh
    )


def test_a_model_folder_says_that_it_is_dual_and_export_refuses_it(straight, tmp_path):
    workdir, state = straight
    small = VAEConfig(block_channels=(8, 8, 8, 8), layers_per_block=1, norm_groups=4)
    model = Model(DUAL, UNET, small, None, init_vae(small, KEY), jax.device_get(PROMPTS))
    shutil.copytree(workdir, tmp_path / "run")
    save_model_folder(tmp_path / "run" / "model", model)
    loaded, step = load_checkpoint_model(tmp_path / "run")
    assert loaded.settings == DUAL and step == 4
    jax.tree.map(np.testing.assert_array_equal, loaded.unet_params, state.ema)
    with pytest.raises(OmfaError, match="no form in diffusers"):
        load_export_arguments(tmp_path / "run")


def test_the_plan_says_that_it_does_not_cover_it():
    job = TrainingJob(DUAL, UNET, make_train_settings(1, 8), MeshSettings())
    with pytest.raises(OmfaError, match="does not cover the reference UNet"):
        make_plan(job, parse_topology("h100-8"))
