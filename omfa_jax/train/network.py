"""The UNet as a training step runs it: compute dtype, sharding hooks, attention kernel, remat."""

import logging
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import Compute, UNetConfig, get_unet_config, get_unet_shapes
from omfa_jax.models.reference_unet import init_from_single
from omfa_jax.parallel.activation_sharding import get_activation_sizes, make_activation_constraint
from omfa_jax.parallel.attention_kernels import get_attention_kernel, select_attention_kernel
from omfa_jax.parallel.fsdp import make_all_gather_params
from omfa_jax.parallel.mesh import MeshSettings
from omfa_jax.parallel.mesh_resolution import ResolvedMesh, resolve_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES
from omfa_jax.train.objective import ApplyFn
from omfa_jax.train.settings import TrainSettings
from omfa_jax.weights.omfa_model import make_apply_fn

log = logging.getLogger(__name__)


def make_unet_config(preset: str, diffusion: DiffusionSettings) -> UNetConfig:
    """Return a preset's UNet with the input and output channels that the canvas needs."""
    return get_unet_config(
        preset, in_channels=diffusion.in_channels, out_channels=diffusion.out_channels
    )


def get_network_shapes(diffusion: DiffusionSettings, config: UNetConfig) -> Any:
    """Return the shapes of all trained parameters: one UNet, or two with a reference UNet."""
    return init_from_single(get_unet_shapes(config), has_reference=diffusion.reference)


def divide_network(
    diffusion: DiffusionSettings, config: UNetConfig, mesh: MeshSettings, devices: int
) -> ResolvedMesh:
    """Return how training divides `devices` into a mesh, and what it shards of the network."""
    shapes = get_network_shapes(diffusion, config)
    return resolve_mesh(mesh, devices, UNET_RULES, shapes, get_activation_sizes(config))


def make_training_network(
    diffusion: DiffusionSettings, config: UNetConfig, train: TrainSettings, mesh: Mesh
) -> ApplyFn:
    """Return the UNet with its prompts, to be called in a step on `mesh` (see `train.gradient`)."""
    return make_sharded_network(
        diffusion,
        config,
        mesh,
        dtype=train.compute_dtype,
        attention=train.attention,
        remat=train.remat,
    )


def make_sharded_network(
    diffusion: DiffusionSettings,
    config: UNetConfig,
    mesh: Mesh,
    *,
    dtype: str,
    attention: str,
    remat: str,
) -> ApplyFn:
    """Return the UNet with its prompts for parameters that are sharded over `mesh`."""
    # the mesh's devices and not jax.default_backend(): ahead of time they are not attached
    platform = mesh.devices.flat[0].platform
    kernel = select_attention_kernel(attention, platform, dtype)
    log.info("attention among image tokens: %s; to the text: xla", kernel)
    compute = Compute(
        dtype=jnp.dtype(dtype),
        constrain=make_activation_constraint(mesh),
        remat=remat,
        kernel=get_attention_kernel(kernel, mesh),
        # a reference UNet has the same weight names, so one set of shapes serves both
        gather=make_all_gather_params(UNET_RULES, get_unet_shapes(config), mesh),
    )
    return make_apply_fn(diffusion, config, compute)
