"""The roofline counts programs of known FLOPs and bytes as they are, and says what it cannot."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from omfa_jax.cli.main import main
from omfa_jax.parallel.topology import parse_topology
from omfa_jax.planning.hlo_text import parse_program
from omfa_jax.planning.roofline import compute_roofline
from omfa_jax.planning.roofline_machine import Machine, make_machine
from omfa_jax.planning.roofline_plot import draw_parts
from omfa_jax.planning.roofline_report import format_roofline, summarize

MACHINE = Machine(1e12, 1e11, near=1e9, far=1e8, group=8)


def compiled(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile().as_text()


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def test_a_product():
    text = compiled(jnp.matmul, shape(256, 512), shape(512, 1024))
    found = compute_roofline(text, MACHINE)
    flops, moved = 2 * 256 * 512 * 1024, 4 * (256 * 512 + 512 * 1024 + 256 * 1024)
    assert found.flops == flops
    assert found.moved_bytes == pytest.approx(moved, rel=0.05)
    # 268 us of products, 37 us of memory
    assert found.seconds == pytest.approx(flops / 1e12, rel=0.05)
    assert not found.notes


def test_a_sum_is_bound_by_memory_at_its_own_line():
    text = compiled(lambda a, b: a + b, shape(1024, 1024), shape(1024, 1024))
    found = compute_roofline(text, MACHINE)
    assert found.moved_bytes == pytest.approx(3 * 4 * 1024**2, rel=0.05)
    assert found.seconds == pytest.approx(3 * 4 * 1024**2 / 1e11, rel=0.05)
    dearest = max(found.operations, key=lambda one: one.visible_seconds)
    assert dearest.bound == "memory" and dearest.flops == {}
    assert "test_roofline.py:" in dearest.line and "<lambda>" in dearest.line


def test_a_scan_counts_each_turn_and_reads_a_slice_of_its_weights():
    def run(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    found = compute_roofline(compiled(run, shape(64, 256), shape(10, 256, 256)), MACHINE)
    assert found.flops == pytest.approx(10 * 2 * 64 * 256 * 256, rel=0.05)
    # a turn reads its weights; whether it also copies them, or x, is the compiler's affair
    weights, x = 10 * 4 * 256 * 256, 10 * 4 * 64 * 256
    assert weights + 2 * x <= 1.05 * found.moved_bytes <= 1.05 * (4 * weights + 8 * x)


def test_a_gather_over_eight_devices():
    mesh = jax.make_mesh((8,), ("fsdp",), devices=jax.devices()[:8])
    cut, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))
    text = compiled(lambda x: x, shape(1024, 512), in_shardings=cut, out_shardings=whole)
    found = compute_roofline(text, MACHINE)
    received = 4 * 1024 * 512 * 7 / 8
    assert sum(one.received for one in found.operations) == pytest.approx(received, rel=0.05)
    gather = max(found.operations, key=lambda one: one.seconds)
    assert gather.part == "collectives" and gather.bound == "network"
    assert found.seconds == pytest.approx(received / 1e9, rel=0.05)


HEAD = "HloModule m, is_scheduled=true\n\nENTRY main (a: f32[64]) -> f32[64] {\n"


def measure(*lines, machine=MACHINE):
    """Return the roofline of a hand-written program's lines."""
    return compute_roofline(HEAD + "".join(f"  {line}\n" for line in lines) + "}\n", machine)


CONVOLUTION = (
    "%a = bf16[8,30,40,64]{3,2,1,0} parameter(0)",
    "%b = bf16[3,3,{inputs},96]{{3,2,1,0}} parameter(1)",
    "ROOT %c = bf16[8,{out},96]{{3,2,1,0}} convolution(%a, %b), window={{{window}}},"
    " dim_labels=b01f_01io->b01f{more}",
)


@pytest.mark.parametrize(
    ("window", "out", "inputs", "more", "taps"),
    [
        # inner pixels have nine taps, 28 x 38; the border's are on padding
        ("size=3x3 pad=1_1x1_1", "30,40", 64, "", (3 * 30 - 2) * (3 * 40 - 2)),
        ("size=3x3 pad=0_1x0_1 stride=2x2", "15,20", 64, "", (3 * 15 - 1) * (3 * 20 - 1)),
        # a strided convolution's gradient: every other pixel is a hole
        ("size=3x3 pad=1_2x1_2 lhs_dilate=2x2", "60,80", 64, "", (3 * 30 - 1) * (3 * 40 - 1)),
        ("size=3x3 pad=1_1x1_1", "30,40", 4, ", feature_group_count=16", 88 * 118),
    ],
)
def test_convolutions_count_taps_on_pixels(window, out, inputs, more, taps):
    lines = [CONVOLUTION[0]] + [
        line.format(window=window, out=out, inputs=inputs, more=more) for line in CONVOLUTION[1:]
    ]
    assert measure(*lines).flops == 2 * 8 * 96 * inputs * taps


def test_kernels_of_gpus_and_tpus():
    heads = "bf16[2,1920,10,64]{3,2,1,0}"
    forward = measure(
        f"%q = {heads} parameter(0)",
        "%k = bf16[2,77,10,64]{3,2,1,0} parameter(1)",
        f"ROOT %o = ({heads}, u8[0]{{0}}) custom-call(%q, %k, %k),"
        ' custom_call_target="__cudnn$fmhaSoftmax"',
    )
    assert forward.flops == 4 * 2 * 10 * 1920 * 77 * 64
    product = measure(
        "%a = bf16[128,64]{1,0} parameter(0)",
        "%b = bf16[64,32]{1,0} parameter(1)",
        "ROOT %c = (bf16[128,32]{1,0}, s8[4194304]{0}) custom-call(%a, %b),"
        ' custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":'
        '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
    )
    assert product.flops == 2 * 128 * 64 * 32
    strange = measure(
        "%a = bf16[128,64]{1,0} parameter(0)",
        'ROOT %c = bf16[128,64]{1,0} custom-call(%a), custom_call_target="tpu_custom_call"',
    )
    assert strange.flops == 0 and "tpu_custom_call" in strange.notes[0]
    assert strange.moved_bytes == 2 * 2 * 128 * 64


def test_tiles_of_tpus_are_moved_whole():
    # 77 tokens of 64 channels take 80 rows of 128
    found = measure(
        "%a = bf16[77,64]{1,0:T(8,128)(2,1)} parameter(0)",
        "ROOT %c = bf16[77,64]{0,1:T(8,128)(2,1)} copy(%a)",
    )
    assert found.moved_bytes == 2 * (80 * 128 + 64 * 128)
    assert found.operations[0].part == "copies and transposes"


def test_a_collective_hides_behind_products():
    def gather(*between):
        return measure(
            "%a = f32[1000000]{0} parameter(0)",
            "%b = f32[2048,2048]{1,0} parameter(1)",
            "%s = (f32[1000000]{0}, f32[2000000]{0}) all-gather-start(%a),"
            " replica_groups={{0,1}}, dimensions={0}",
            *between,
            "ROOT %d = f32[2000000]{0} all-gather-done(%s)",
        )

    alone = gather()
    assert alone.seconds == pytest.approx(4e6 / 1e9)
    dot = "%c = f32[2048,2048]{1,0} dot(%b, %b), lhs_contracting_dims={1}"
    assert gather(dot).seconds == pytest.approx(2 * 2048**3 / 1e12)


def test_peaks_by_type():
    h200, v5e = make_machine(parse_topology("h200-8")), make_machine(parse_topology("v5litepod-8"))
    assert h200.get_flops("f32", "") == 0.5 * h200.get_flops("bf16", "")
    assert v5e.get_flops("f32", "") == v5e.get_flops("bf16", "") == 197e12
    assert v5e.get_flops("f32", "highest") == pytest.approx(197e12 / 6)
    assert h200.get_network(16) == 50e9 and h200.get_network(8) == 450e9


def test_the_innermost_own_line_is_named():
    text = """HloModule m, is_scheduled=true

ENTRY main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  ROOT %b = f32[64]{0} sine(%a), metadata={op_name="jit(f)/sin" stack_frame_id=3}
}

FileNames
1 "/home/me/omfa_jax/models/layers.py"
2 "/usr/lib/python3/site-packages/flax/linear.py"

FunctionNames
1 "call"
2 "Dense"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=1}
2 {file_name_id=1 function_name_id=1 line=9 end_line=9 column=1 end_column=1}
3 {file_name_id=2 function_name_id=2 line=5 end_line=5 column=1 end_column=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
"""
    program = parse_program(text)
    root = program.computations["main"].root
    assert [line for _, line, _ in program.find_frames(root)] == [5, 9, 7]
    assert compute_roofline(text, MACHINE).operations[0].line == "omfa_jax/models/layers.py:9 call"


def test_figures_for_people_json_and_the_picture():
    made: Any = SimpleNamespace(topology=parse_topology("v5litepod-8"), model_flops=1e11, mfu=0.4)
    found = summarize(
        measure(
            "%a = bf16[2048,2048]{1,0} parameter(0)",
            "%p = bf16[2048,2048]{1,0} dot(%a, %a), lhs_contracting_dims={1}",
            "ROOT %c = bf16[2048,2048]{0,1} copy(%p)",
            machine=make_machine(made.topology),
        ),
        made,
    )
    product, copy = 2 * 2048**3 / 197e12, 4 * 2048**2 / 0.82e12
    assert found["seconds"] == pytest.approx(product + copy)
    assert found["mfu_bound"] == pytest.approx(made.model_flops / 8 / 197e12 / (product + copy))
    assert found["copies_share"] == pytest.approx(4 / 10)
    assert [cost["bound"] for cost in found["dearest"]] == ["compute", "memory"]
    assert json.loads(json.dumps(found)) == found
    text = format_roofline(found, made)
    assert "MFU bound" in text and "copies and transposes 40.0%" in text
    picture = draw_parts(found, "v5litepod-8", "svg")
    assert picture.startswith(b"<?xml") and b">copies and transposes<" in picture


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--plot", "a.png"), "add --compile"),
        (("--compile", "--plot", "a.pdf"), "expected a name that ends in .png or .svg"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused_at_once(flags, message, capsys):
    assert main(["plan", "--config", "configs/tiny.py", "--topology", "v5litepod-8", *flags]) == 2
    assert message in capsys.readouterr().err
