"""The compiled step on eight devices: bytes per device, all-gathers, reduce-scatters, its plan."""

import collections
import dataclasses
import math
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_settings import make_train_settings
from test_plan import EIGHT, SMALL, job
from tiny_training import SETTINGS

from omfa_jax.core.trees import flatten
from omfa_jax.models import UNETS, get_unet_shapes
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, make_param_shardings
from omfa_jax.planning import aot
from omfa_jax.planning.aot import make_job_step
from omfa_jax.planning.plan import make_plan
from omfa_jax.planning.roofline import compute_roofline
from omfa_jax.planning.roofline_machine import make_machine
from omfa_jax.planning.roofline_report import format_roofline, summarize
from omfa_jax.train.aot_step import make_aot_step

# a network whose step compiles in a quarter of a minute
UNET = dataclasses.replace(UNETS["tiny"], transformer_depth=(0, 2))
MESH = MeshSettings(data=2, fsdp=4)
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute)(?:-start)?\("
)


@pytest.fixture(scope="module")
def step():
    """The step of a small UNet with data=2 and fsdp=4, its program, and its plan beside."""
    made = {}

    def keep(small, devices):
        ahead = made["ahead"] = make_job_step(small, devices)

        def compile_once(*args, **options):
            made["compiled"] = ahead.lower().compile(*args, **options)
            return made["compiled"]

        return SimpleNamespace(lower=lambda: SimpleNamespace(compile=compile_once))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(UNETS, "tiny", UNET)
        flags = ("--config.model.unet=tiny", *SMALL[1:])
        small = job(*flags, "--config.mesh.fsdp=4", "--config.mesh.data=2")
        patch.setattr(aot, "make_job_step", keep)
        stats = aot.compile_step(small, jax.devices()[:8])
    found = collectives(made["compiled"].as_text())
    plan = make_plan(small, EIGHT)
    return SimpleNamespace(**made, found=found, stats=stats, plan=plan, unet=small.unet)


def test_formulas_and_compiler_agree_on_memory(step):
    made, compiled = step.plan, step.stats
    assert made.peak_bytes == pytest.approx(
        compiled.argument_bytes + compiled.temporary_bytes, rel=0.1
    )
    state = sum(made.memory[name] for name in ("parameters", "optimizer", "ema"))
    assert state == pytest.approx(compiled.argument_bytes, rel=0.05)
    assert made.memory["activations or gradients"] > 3 * state


def test_formulas_and_compiler_agree_on_traffic(step):
    made, compiled = step.plan, step.stats
    scattered = compiled.traffic["reduce-scatter"].received_bytes
    assert made.traffic["reduce-scatter of gradients"] == scattered
    summed = compiled.traffic["all-reduce"].received_bytes
    assert made.traffic["all-reduce of gradients over data"] == pytest.approx(summed, rel=0.1)
    # XLA's CPU compiler keeps some of what a TPU's or GPU's gathers twice
    gathered = compiled.traffic["all-gather"].received_bytes
    assert made.traffic["all-gather of weights"] / 2 <= gathered
    assert gathered <= 1.01 * made.traffic["all-gather of weights"]


def test_the_rooflines_flops_are_the_closed_forms(step):
    found = summarize(compute_roofline(step.stats.text, make_machine(EIGHT)), step.plan)
    # the closed form counts elementwise operations, too, the roofline padding's taps on CPUs
    assert 8 * found["flops"] == pytest.approx(step.plan.model_flops, rel=0.02)
    text = format_roofline(found, step.plan)
    assert "omfa_jax/models/" in text.split("dearest")[1] and not found["notes"]


def collectives(text):
    """Return {kind: [elements of each result]}; a scan's body counts once."""
    found = collections.defaultdict(list)
    for match in COLLECTIVE.finditer(text):
        shapes = re.findall(r"\w\[([\d,]*)\]", match[1])
        found[match[2]] += [math.prod(map(int, filter(None, s.split(",")))) for s in shapes]
    return found


def sharded_sizes(config):
    """Return the elements of one layer of each weight that fsdp shards."""
    shapes = get_unet_shapes(config)
    cut = dict(flatten(make_param_shardings(UNET_RULES, shapes, make_mesh(MESH))))
    return {
        path: math.prod(leaf.shape) // (leaf.shape[0] if "transformer_blocks" in path else 1)
        for path, leaf in flatten(shapes)
        if "fsdp" in cut[path].spec
    }


def test_every_layer_gathers_its_weights_and_scatters_its_gradients(step):
    weights = collections.Counter(sharded_sizes(step.unet).values())
    scattered = collections.Counter(MESH.fsdp * size for size in step.found["reduce-scatter"])
    assert scattered == weights
    # once in the forward pass and at most once more in the backward pass; nothing else
    gathered = collections.Counter(step.found["all-gather"])
    assert gathered.keys() == weights.keys()
    assert all(weights[size] <= times <= 2 * weights[size] for size, times in gathered.items())
    assert not step.found["all-to-all"] and not step.found["collective-permute"]


@pytest.mark.parametrize("remat", ["none", "block"])
def test_weights_are_gathered_again_for_the_gradient_not_kept(remat):
    """Checked before optimisation: XLA merges gathers on CPUs that it keeps apart elsewhere."""
    config = dataclasses.replace(
        UNET, in_channels=SETTINGS.in_channels, out_channels=SETTINGS.out_channels
    )
    train = make_train_settings(1, 8, remat=remat, ema_decay=0.9)
    text = make_aot_step(SETTINGS, config, train, make_mesh(MESH)).lower().as_text()
    weights = len(sharded_sizes(config))
    assert text.count("stablehlo.reduce_scatter") == weights
    # not quite twice: the gradient of the network's inputs is not needed
    assert 1.8 * weights < text.count("stablehlo.all_gather") <= 2 * weights


def test_no_gather_has_the_full_model(step):
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(step.ahead.state.params))
    assert max(step.found["all-gather"]) < 0.1 * total


def test_traffic_is_three_times_the_parameters(step):
    """Two all-gathers and one reduce-scatter of each weight; the rest is small."""
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(step.ahead.state.params))
    depth = UNET.transformer_depth[-1]
    sizes = sharded_sizes(step.unet)
    runs = {size: depth for path, size in sizes.items() if "transformer_blocks" in path}
    scattered = (MESH.fsdp * size for size in step.found["reduce-scatter"])
    moved = sum(size * runs.get(size, 1) for size in (*step.found["all-gather"], *scattered))
    assert 1.9 * total < moved <= 1.15 * 3 * total


def test_each_device_has_its_part_of_the_state(step):
    leaves = jax.tree.leaves(step.ahead.state)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(step.ahead.batch)) / 8
    frozen = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(step.ahead.constants))
    here = step.compiled.memory_analysis().argument_size_in_bytes - batch - frozen
    assert here == pytest.approx(total / MESH.fsdp, rel=0.05)
    assert np.prod(step.ahead.state.params["conv_in"]["kernel"].shape) < 0.01 * total
