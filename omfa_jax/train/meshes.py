"""The mesh of a run by its config, and where its weights lie: said before they are there."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from omfa_jax.cli import config as border
from omfa_jax.cli.startup import starting_bundle
from omfa_jax.parallel.division import Division, abstract, division
from omfa_jax.parallel.mesh import AXES, make_mesh
from omfa_jax.parallel.rules import REPLICATED_RULES, UNET_RULES, explain
from omfa_jax.train.network import network_division, network_shapes
from omfa_jax.weights.bundle import Bundle

log = logging.getLogger(__name__)


def network_mesh(config: border.Config, bundle: Bundle) -> Mesh:
    """Return the mesh over all devices; what it leaves whole of the network is on the log."""
    settings = border.mesh_settings(config)
    return _said(
        network_division(bundle.settings, bundle.unet_config, settings, jax.device_count())
    )


def replicated_mesh(config: border.Config, params: Mapping[str, Any]) -> Mesh:
    """Return the mesh for weights that every device holds whole: all of it cuts the batch."""
    settings = border.mesh_settings(config)
    return _said(division(settings, jax.device_count(), REPLICATED_RULES, params))


def sharding_table(config: border.Config) -> str:
    """Return where every weight of the config's preset lies on the config's mesh."""
    settings = border.mesh_settings(config)
    asked = math.prod(getattr(settings, axis) for axis in AXES)
    # a mesh without -1 says itself how many devices it wants; they need not be here
    devices = asked if asked > 0 else jax.device_count()
    bundle = starting_bundle(config, None, abstract=True)
    # what is only looked at is no error
    settings = dataclasses.replace(settings, allow_replicated=True)
    divided = network_division(bundle.settings, bundle.unet_config, settings, devices)
    say(divided)
    mesh = abstract({axis: getattr(divided.settings, axis) for axis in AXES})
    return explain(UNET_RULES, network_shapes(bundle.settings, bundle.unet_config), mesh)


def say(divided: Division) -> None:
    """Log what there is to say of a mesh."""
    for note in divided.notes:
        log.warning("%s", note)


def _said(divided: Division) -> Mesh:
    say(divided)
    return make_mesh(divided.settings)
