"""The device mesh of a run, and the table that shows how it shards each weight."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from omfa_jax.parallel.mesh import MESH_AXES, MeshSettings, make_mesh
from omfa_jax.parallel.mesh_resolution import ResolvedMesh, make_abstract_mesh, resolve_mesh
from omfa_jax.parallel.sharding_rules import REPLICATED_RULES, UNET_RULES, format_sharding_table
from omfa_jax.train.network import divide_network, get_network_shapes
from omfa_jax.weights.omfa_model import Model

log = logging.getLogger(__name__)


def make_network_mesh(settings: MeshSettings, model: Model) -> Mesh:
    """Return the mesh over all devices; a warning says which weights it leaves replicated."""
    return _make_mesh(
        divide_network(model.settings, model.unet_config, settings, jax.device_count())
    )


def make_replicated_mesh(settings: MeshSettings, params: Mapping[str, Any]) -> Mesh:
    """Return a mesh for weights that every device holds in full: all axes cut the batch."""
    return _make_mesh(resolve_mesh(settings, jax.device_count(), REPLICATED_RULES, params))


def explain_sharding(settings: MeshSettings, model: Model) -> str:
    """Return a table of every weight's sharding on the mesh that `settings` describe."""
    asked = math.prod(getattr(settings, axis) for axis in MESH_AXES)
    # a mesh without -1 fixes the device count, so the table can be printed on any machine
    devices = asked if asked > 0 else jax.device_count()
    # nothing is trained here: replicated weights are worth a warning, not an error
    settings = dataclasses.replace(settings, allow_replicated=True)
    divided = divide_network(model.settings, model.unet_config, settings, devices)
    log_notes(divided)
    mesh = make_abstract_mesh({axis: getattr(divided.settings, axis) for axis in MESH_AXES})
    return format_sharding_table(
        UNET_RULES, get_network_shapes(model.settings, model.unet_config), mesh
    )


def log_notes(divided: ResolvedMesh) -> None:
    """Log each note of a mesh division as a warning."""
    for note in divided.notes:
        log.warning("%s", note)


def _make_mesh(divided: ResolvedMesh) -> Mesh:
    log_notes(divided)
    return make_mesh(divided.settings)
