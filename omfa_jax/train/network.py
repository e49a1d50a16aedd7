"""The UNet as a training step runs it: compute type, sharding hooks, attention, remat."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import Compute, UNetConfig, init_unet
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


def unet_shapes(config: UNetConfig) -> Any:
    """Return one UNet's parameters as shapes; nothing is computed."""
    return jax.eval_shape(lambda: init_unet(config, jax.random.key(0)))


def network_shapes(diffusion: DiffusionSettings, config: UNetConfig) -> Any:
    """Return the parameters of all that is trained, one UNet or two, as shapes."""
    key, reference = jax.random.key(0), diffusion.reference
    return jax.eval_shape(lambda: network_params(config, key, has_reference=reference))


def network_division(
    diffusion: DiffusionSettings, config: UNetConfig, mesh: MeshSettings, devices: int
) -> Division:
    """Return the mesh that training a network gets over so many devices, and what it cuts of it."""
    shapes = network_shapes(diffusion, config)
    return division(mesh, devices, UNET_RULES, shapes, activation_sizes(config))


def trained_network(
    diffusion: DiffusionSettings, config: UNetConfig, train: TrainSettings, mesh: Mesh
) -> Apply:
    """Return the UNet with its prompts, to be called in a step on `mesh` (see `train.gradient`)."""
    platform = mesh.devices.flat[0].platform
    kernel = kernel_name(train.attention, platform, train.compute_dtype)
    log.info("attention among image tokens: %s; to the text: xla", kernel)
    compute = Compute(
        dtype=jnp.dtype(train.compute_dtype),
        constrain=activation_constraint(mesh),
        remat=train.remat,
        kernel=attention_kernel(kernel, mesh),
        # a reference UNet's weights lie as the main one's, by the same names
        fetch=weight_fetcher(UNET_RULES, unet_shapes(config), mesh),
    )
    return network_apply(diffusion, config, compute)
