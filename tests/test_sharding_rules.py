"""The compiled step on eight devices: bytes per device, all-gathers, reduce-scatters."""

import collections
import math
import re

import jax
import numpy as np
import pytest
from small_settings import make_train_settings
from tiny_training import SETTINGS

from omfa_jax.core.trees import flatten
from omfa_jax.models import get_unet_config, get_unet_shapes
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.train.aot_step import make_aot_step

UNET = get_unet_config(
    "xs",
    in_channels=SETTINGS.in_channels,
    out_channels=SETTINGS.out_channels,
    block_channels=(96, 192),
    transformer_depth=(0, 3),
    heads=(1, 3),
)
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute)(?:-start)?\("
)


@pytest.fixture(scope="module")
def step():
    """The compiled step of a small UNet with fsdp=8."""
    mesh = make_mesh(MeshSettings(data=1, fsdp=8))
    ahead = make_aot_step(
        SETTINGS, UNET, make_train_settings(1, 8, remat="block", ema_decay=0.9), mesh
    )
    compiled = ahead.lower().compile()
    return ahead, compiled, collectives(compiled.as_text())


def collectives(text):
    """Return {kind: [elements of each result]}; a scan's body counts once."""
    found = collections.defaultdict(list)
    for match in COLLECTIVE.finditer(text):
        shapes = re.findall(r"\w\[([\d,]*)\]", match[1])
        found[match[2]] += [math.prod(map(int, filter(None, s.split(",")))) for s in shapes]
    return found


def sharded_sizes(mesh):
    """Return the elements of one layer of each weight that fsdp shards."""
    shapes = get_unet_shapes(UNET)
    cut = dict(flatten(make_param_shardings(UNET_RULES, shapes, mesh)))
    return {
        path: math.prod(leaf.shape) // (leaf.shape[0] if "transformer_blocks" in path else 1)
        for path, leaf in flatten(shapes)
        if "fsdp" in cut[path].spec
    }


def test_every_layer_gathers_its_weights_and_scatters_its_gradients(step):
    _, _, found = step
    weights = collections.Counter(sharded_sizes(make_mesh(MeshSettings(1, 8))).values())
    scattered = collections.Counter(8 * size for size in found["reduce-scatter"])
    assert scattered == weights
    # once in the forward pass and once in the backward pass's recomputation; nothing else
    gathered = collections.Counter(found["all-gather"])
    assert gathered.keys() == weights.keys()
    assert all(weights[size] <= times <= 2 * weights[size] for size, times in gathered.items())
    assert not found["all-to-all"] and not found["collective-permute"]


@pytest.mark.parametrize("remat", ["none", "block"])
def test_weights_are_gathered_again_for_the_gradient_not_kept(remat):
    """Checked before optimisation: XLA merges gathers on CPUs that it keeps apart elsewhere."""
    mesh = make_mesh(MeshSettings(data=1, fsdp=8))
    train = make_train_settings(1, 8, remat=remat, ema_decay=0.9)
    text = make_aot_step(SETTINGS, UNET, train, mesh).lower().as_text()
    weights = len(sharded_sizes(mesh))
    assert text.count("stablehlo.reduce_scatter") == weights
    # not quite twice: the gradient of the network's inputs is not needed
    assert 1.8 * weights < text.count("stablehlo.all_gather") <= 2 * weights


def test_no_gather_has_the_full_model(step):
    ahead, _, found = step
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(ahead.state.params))
    assert max(found["all-gather"]) < 0.1 * total


def test_traffic_is_three_times_the_parameters(step):
    """Two all-gathers and one reduce-scatter of each weight; the rest is small."""
    ahead, _, found = step
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(ahead.state.params))
    sizes = sharded_sizes(make_mesh(MeshSettings(1, 8)))
    depth = UNET.transformer_depth[-1]
    runs = {size: depth for path, size in sizes.items() if "transformer_blocks" in path}
    whole = [*found["all-gather"], *(8 * size for size in found["reduce-scatter"])]
    moved = sum(size * runs.get(size, 1) for size in whole) + 2 * sum(found["all-reduce"])
    assert 1.9 * total < moved <= 1.15 * 3 * total


def test_each_device_has_an_eighth_of_the_state(step):
    ahead, compiled, _ = step
    leaves = jax.tree.leaves(ahead.state)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(ahead.batch)) / 8
    frozen = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(ahead.constants))
    here = compiled.memory_analysis().argument_size_in_bytes - batch - frozen
    assert here == pytest.approx(total / 8, rel=0.05)
    assert np.prod(ahead.state.params["conv_in"]["kernel"].shape) < 0.01 * total
