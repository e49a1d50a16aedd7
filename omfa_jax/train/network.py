"""The UNet as a training step runs it: compute dtype, sharding hooks, attention kernel, remat."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import Compute, UNetConfig, init_unet, unet
from omfa_jax.models.reference_unet import network_params
from omfa_jax.parallel.activations import activation_constraint, activation_sizes
from omfa_jax.parallel.attention import attention_kernel, kernel_name
from omfa_jax.parallel.division import Division, division
from omfa_jax.parallel.gather import weight_fetcher
from omfa_jax.parallel.mesh import MeshSettings
from omfa_jax.parallel.rules import UNET_RULES
from omfa_jax.train.objective import Apply
from omfa_jax.train.settings import TrainSettings
from omfa_jax.weights.bundle import network_apply

log = logging.getLogger(__name__)


def make_unet_config(preset: str, diffusion: DiffusionSettings) -> UNetConfig:
    """Return a preset's UNet with the input and output channels that the canvas needs."""
    return unet(preset, in_channels=diffusion.in_channels, out_channels=diffusion.out_channels)


def unet_shapes(config: UNetConfig) -> Any:
    """Return one UNet's parameters as shapes, without computing anything."""
    return jax.eval_shape(lambda: init_unet(config, jax.random.key(0)))


def network_shapes(diffusion: DiffusionSettings, config: UNetConfig) -> Any:
    """Return the shapes of all trained parameters: one UNet, or two with a reference UNet."""
    key, reference = jax.random.key(0), diffusion.reference
    return jax.eval_shape(lambda: network_params(config, key, has_reference=reference))


def network_division(
    diffusion: DiffusionSettings, config: UNetConfig, mesh: MeshSettings, devices: int
) -> Division:
    """Return how training divides `devices` into a mesh, and what it shards of the network."""
    shapes = network_shapes(diffusion, config)
    return division(mesh, devices, UNET_RULES, shapes, activation_sizes(config))


def trained_network(
    diffusion: DiffusionSettings, config: UNetConfig, train: TrainSettings, mesh: Mesh
) -> Apply:
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
) -> Apply:
    """Return the UNet with its prompts for parameters that are sharded over `mesh`."""
    platform = mesh.devices.flat[0].platform
    kernel = kernel_name(attention, platform, dtype)
    log.info("attention among image tokens: %s; to the text: xla", kernel)
    compute = Compute(
        dtype=jnp.dtype(dtype),
        constrain=activation_constraint(mesh),
        remat=remat,
        kernel=attention_kernel(kernel, mesh),
        # a reference UNet has the same weight names, so one set of shapes serves both
        fetch=weight_fetcher(UNET_RULES, unet_shapes(config), mesh),
    )
    return network_apply(diffusion, config, compute)
