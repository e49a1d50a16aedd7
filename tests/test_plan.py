"""`omfa plan`: topologies parse, advice makes runs fit; the compiler: test_sharding_rules."""

import dataclasses
import json
import os

import pytest

from omfa_jax.cli import config_lib
from omfa_jax.cli.main import main
from omfa_jax.cli.plan_command import load_job
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import get_unet_shapes
from omfa_jax.parallel.gpu_targets import GPU_TARGETS
from omfa_jax.parallel.hardware import CHIPS
from omfa_jax.parallel.mesh import MESH_AXES
from omfa_jax.parallel.topology import Topology, parse_topology
from omfa_jax.planning.flops import count_unet_flops
from omfa_jax.planning.hlo_collectives import parse_collectives
from omfa_jax.planning.memory import find_largest_layer
from omfa_jax.planning.plan import find_fitting_overrides, find_lighter_remat, make_plan

BASE = "configs/base.py"
SMALL = (
    "--config.model.unet=xs",
    "--config.canvas.garment=(256, 192)",
    "--config.canvas.person=(256, 192)",
    "--config.canvas.face=(128, 96)",
    "--config.train.compute_dtype=float32",
    "--config.train.remat=none",
    "--config.train.attention=xla",
    "--config.train.batch_size=16",
)
# eight chips of one host; XLA's CPU compiler stands in for the chip's own
EIGHT = Topology("v5litepod-8", "v5e", 8, 8, (2, 4))


@pytest.fixture(autouse=True)
def _environment():
    """`omfa plan` sets environment variables for the compilers of other devices."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def job(*overrides):
    class Options:
        config = BASE

    Options.overrides = overrides
    return load_job(Options)


def test_sdxl_on_the_papers_machine():
    made = make_plan(job("--config.mesh.fsdp=4"), parse_topology("a800-4"))
    assert made.attention == "cudnn" and made.fits
    # the compiler for it says 15.57 GiB (docs/plans.md)
    assert made.peak_bytes / 2**30 == pytest.approx(15.57, rel=0.05)
    height, width = 128, 240
    # as the run's own log counts it
    assert made.model_flops == 8 * count_unet_flops(job().unet, height, width).total.step
    assert made.mfu < 0.5 and made.step_seconds < made.bare_step_seconds


def test_remat_trades_memory_for_flops():
    plans = [
        make_plan(
            job("--config.mesh.fsdp=4", f"--config.train.remat={policy}"), parse_topology("a800-4")
        )
        for policy in ("none", "block", "full")
    ]
    held = [made.memory["activations or gradients"] for made in plans]
    assert held[0] > 3 * held[1] > 3 * held[2]
    assert plans[0].executed_flops == plans[0].model_flops
    # a third of forward and backward again, but for what has no gradient
    assert 1.33 < plans[2].executed_flops / plans[2].model_flops < 1.35
    assert plans[0].executed_flops < plans[1].executed_flops < plans[2].executed_flops


def test_lighter_remat_is_suggested_if_it_fits(capsys):
    flags = ["--topology", "a800-4", "--config.mesh.fsdp=4"]
    assert main(["plan", "--config", BASE, *flags]) == 0
    assert "config.train.remat=none also fits: 40.1 GiB per device" in capsys.readouterr().out
    full, half = (
        find_lighter_remat(job("--config.mesh.fsdp=4"), parse_topology("a800-4"), efficiency=share)
        for share in (1.0, 0.5)
    )
    assert half and full and half.compute_seconds == pytest.approx(2 * full.compute_seconds)
    assert (
        find_lighter_remat(
            job("--config.mesh.fsdp=16", "--config.train.batch_size=16"),
            parse_topology("v5litepod-16"),
        )
        is None
    )


def test_a_run_that_does_not_fit_gets_overrides_that_do(capsys):
    arguments = ["plan", "--config", BASE, "--topology", "v5litepod-8", "--config.mesh.data=8"]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "DOES NOT FIT" in printed.out
    assert "does not fit on v5litepod-8" in printed.err and "--config.mesh.fsdp=8" in printed.err
    tried = (
        find_fitting_overrides(job("--config.mesh.data=8"), parse_topology("v5litepod-8")) or ""
    ).split()
    assert make_plan(job("--config.mesh.data=8", *tried), parse_topology("v5litepod-8")).fits


def test_the_figures_are_written(tmp_path, capsys):
    out = tmp_path / "plan.json"
    flags = ["--topology", "h100-8", "--json", str(out), *SMALL[:-3]]
    assert main(["plan", "--config", BASE, *flags]) == 0
    written = json.loads(out.read_text())["plan"]
    assert written["fits"] and written["topology"]["devices"] == 8
    assert f"{written['params']:,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "chips", "devices", "group", "slices", "platform"),
    [
        ("a800-4", 4, 4, 4, 1, "cuda"),
        ("h200-256", 256, 256, 8, 1, "cuda"),
        ("mi300x-16", 16, 16, 8, 1, "rocm"),
        ("gb200-8", 8, 8, 8, 1, "cuda"),
        ("gb200-144", 144, 144, 72, 1, "cuda"),
        ("gb200-128", 128, 128, 64, 1, "cuda"),
        ("v4-32", 16, 16, 16, 1, "tpu"),
        ("v5p-128", 64, 64, 64, 1, "tpu"),
        ("v5litepod-256x2", 512, 512, 256, 2, "tpu"),
        ("v5e-256x2", 512, 512, 256, 2, "tpu"),
        ("v6e-256", 256, 256, 256, 1, "tpu"),
        ("tpu7x-128", 64, 128, 128, 1, "tpu"),
        ("tpu7x-16x2", 16, 32, 16, 2, "tpu"),
    ],
)
def test_topologies_by_name(name, chips, devices, group, slices, platform):
    found = parse_topology(name)
    assert (found.chips, found.devices, found.group, found.slices) == (
        chips,
        devices,
        group,
        slices,
    )
    assert found.platform == platform
    # MaxText's v5e-N is accepted, gcloud's spelling is used
    assert found.name == name.replace("v5e", "v5litepod")
    assert found.accelerator_type == found.name.removesuffix("x2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h200-16", "16 GPUs in 2 nodes of 8"),
        ("gb200-72", "72 GPUs in 1 NVLink domain of 72"),
        ("v4-32", "16 chips (2x2x4), 32 TensorCores"),
        ("v6e-256x2", "2 slices of 256 chips (16x16): 512 chips"),
        ("tpu7x-128", "64 chips (4x4x4), 128 TensorCores and 128 JAX devices"),
    ],
)
def test_a_topology_says_how_many_chips_it_has(name, text):
    assert parse_topology(name).describe() == text


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("v7p-16", "unknown topology"),
        ("v4", "unknown topology"),
        ("v5e-17", "v5litepod-N counts chips; expected one of 1, 4, 8, 16, 32"),
        ("v4-4", "v4-N counts TensorCores, two per chip; expected one of 8, 16, 32"),
        ("h100-12", "nodes of 8 GPUs, .* h100-4, h100-8, h100-16"),
        ("gb200-74", "nodes of 72 GPUs, .* gb200-4, gb200-64, gb200-72, gb200-144"),
        ("h100-8x2", "nodes of 8"),
        ("v6e-16x0", "v6e-N counts chips"),
    ],
)
def test_other_topologies_are_refused(name, word):
    with pytest.raises(OmfaError, match=word):
        parse_topology(name)


def test_sharding_is_explained_for_devices_that_are_not_attached(capsys, tmp_path):
    flags = ["--workdir", str(tmp_path), "--explain-sharding", "--config.mesh.fsdp=16"]
    assert main(["train", "--config", BASE, *flags, "--config.mesh.data=1"]) == 0
    assert "on each of 16 devices" in capsys.readouterr().out


def test_two_slices_need_the_slice_axis():
    with pytest.raises(OmfaError, match="does not cover the 32 devices"):
        make_plan(
            job("--config.mesh.data=16", "--config.train.batch_size=32"),
            parse_topology("v5litepod-16x2"),
        )
    overrides = ("--config.mesh.slice=2", "--config.mesh.fsdp=16", "--config.train.batch_size=32")
    made = make_plan(job(*overrides), parse_topology("v5litepod-16x2"))
    assert "all-reduce of gradients over slice, far" in made.traffic


def test_every_nvidia_gpu_has_a_compiler_target():
    assert set(GPU_TARGETS) == {
        name for name, chip in CHIPS.items() if "NVIDIA" in chip.device_kind
    }
    for name, target in GPU_TARGETS.items():
        assert CHIPS[name].memory_bytes == pytest.approx(target.memory_bytes, rel=0.01)
        assert target.to_textproto().count("{") == target.to_textproto().count("}")


def test_the_largest_layer_is_a_transformer_block():
    # SDXL's largest: 1280 wide, its two attentions (text of 2048) and feed-forward
    block = 4 * 1280**2 + 2 * 1280**2 + 2 * 2048 * 1280 + 12 * 1280**2
    assert find_largest_layer(get_unet_shapes(job().unet)) == pytest.approx(block, rel=0.01)


LOOP = """
%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g = f32[8,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], f32[8]) tuple(%i, %y)
}

%condition.1 (p: (s32[], f32[8])) -> pred[] {
  %c = s32[] constant(10)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}

%all-reduce-scatter.3 (p: f32[64]) -> f32[8] {
  %all = f32[64]{0} all-reduce(%p), replica_groups=[1,8]<=[8]
  ROOT %mine = f32[8]{0} dynamic-slice(%all, %i)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%init), condition=%condition.1, body=%body.1
  %r = (f32[8]{0}, f32[2]{0}) reduce-scatter-start(%a), replica_groups={{0,1,2,3},{4,5,6,7}}
  %m = bf16[16]{0} all-gather(%b), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}
  %f = f32[8]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %s = bf16[16]{0} all-reduce(%b), replica_groups=mesh['a'=2,'b'=4] {'a','b'}
}
"""


def test_loop_bodies_count_once_per_iteration():
    found = parse_collectives(LOOP)
    # the last is of 32 bytes among four
    gathers = found["all-gather"]
    assert (gathers.runs, gathers.received_bytes) == (11, 10 * 128 * 3 // 4 + 32 * 3 // 4)
    # the second is a TPU's fusion
    assert found["reduce-scatter"].received_bytes == 40 * 3 // 5 + 256 * 7 // 8
    assert found["all-reduce"].received_bytes == 2 * 32 * 7 // 8


def test_the_plan_has_the_mesh_of_the_config():
    made = make_plan(job("--config.mesh.fsdp=4"), parse_topology("a800-4"))
    assert tuple(made.mesh) == MESH_AXES and made.mesh["fsdp"] == 4
    assert dataclasses.asdict(made)["topology"]["name"] == "a800-4"
    assert config_lib.make_mesh_settings(config_lib.load_config(BASE)).slice == 1
