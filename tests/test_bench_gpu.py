"""`bench/gpu.py`: what it measures is the paper's step; it resumes; its table; its profile."""

import gzip
import json
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import gpu_settings, kernel_profile
from bench.gpu import forget
from bench.gpu_processes import Clock, OutOfTime, Processes, WorkerError
from bench.gpu_report import format_report, load_report, read_roofline, save_report
from bench.gpu_sections import KERNELS, VERSUS, Bench, Section, run_sections
from omfa_jax.cli import config_lib
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import VAES

DEVICE = {
    "status": "done",
    "device": "NVIDIA H200",
    "jax": "0.11.2",
    "bf16_flops": 1000e12,
    "memory_bandwidth": 4.8e12,
    "measured_bf16_flops": 800e12,
    "measured_bandwidth": 4.3e12,
}
STEP = {
    "batch": 4,
    "remat": "block",
    "model_flops": 160e12,
    "trace_s": 11.0,
    "compile_s": 90.0,
    "cudnn_attention": True,
    "turns": [0.32, 0.32, 9.0],
    "peak_bytes": 57 * 2**30,
}


@pytest.mark.parametrize("remat", ["block", "none"])
def test_the_step_is_that_of_the_config(remat):
    flags = ["--config.train.batch_size=4", f"--config.train.remat={remat}"]
    config = config_lib.load_config("configs/vitonhd.py", flags)
    case = gpu_settings.Case(4, remat)
    assert gpu_settings.make_train(case) == config_lib.make_train_settings(config)
    diffusion = config_lib.make_diffusion_settings(config, VAES["sdxl"])
    assert gpu_settings.make_diffusion(tiny=False) == diffusion
    cases = {gpu_settings.FIRST, *gpu_settings.CASES}
    assert len(cases) == 20 and {case.batch for case in cases} == {1, 2, 4, 8, 16}


def run(out, behaviours, *, seconds=1000.0):
    """Run fake sections on the report in `out`, as a call of the script does; return its rows."""
    report = load_report(out, tiny=True)
    called = []

    def make(name):
        def rows():
            called.append(name)
            behave = behaviours[name]
            if isinstance(behave, Exception):
                raise behave
            yield from behave.items()

        return Section((name, KERNELS) if name == "first" else (name,), 10, rows)

    sections = [make(name) for name in behaviours]
    run_sections(sections, report, Clock(seconds), lambda: save_report(out, report))
    return json.loads((out / "gpu.json").read_text())["sections"], called


def test_a_later_call_measures_what_is_missing(tmp_path):
    cut = {"first": {"first": STEP, KERNELS: {"status": "failed", "note": "no CUPTI"}}}
    others = {
        "large": WorkerError("JaxRuntimeError: RESOURCE_EXHAUSTED: 150 GiB"),
        "broken": WorkerError("RuntimeError: a driver"),
        "slow": OutOfTime(),
        "good": {"good": {"passed": True, "figure": "0.1%"}},
    }
    rows, called = run(tmp_path, cut | others)
    assert called == ["first", "large", "broken", "slow", "good"]
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "first": "done",
        KERNELS: "failed",
        "large": "no memory",
        "broken": "failed",
        "slow": "left",
        "good": "done",
    }
    # without time nothing is begun, and nothing that is known is lost
    assert run(tmp_path, cut | others, seconds=5.0) == (rows, [])
    # what failed comes last, and a second failure is final
    rows, called = run(tmp_path, cut | others | {"slow": {"slow": STEP}})
    assert called == ["slow", "first", "broken"]
    assert rows["broken"]["status"] == "failed twice" and rows["slow"]["status"] == "done"
    report = load_report(tmp_path, tiny=True)
    forget(report, ["goo"])
    assert "good" not in report["sections"] and "slow" in report["sections"]
    with pytest.raises(OmfaError, match="with --tiny; change --out"):
        load_report(tmp_path, tiny=False)
    (tmp_path / "gpu.json").write_text("{")
    with pytest.raises(OmfaError, match="is not a report"):
        load_report(tmp_path, tiny=True)


def test_the_table_has_every_figure(tmp_path):
    other = {"torch": "2.11", "diffusers": "0.36", "compiled": True, "peak_bytes": 60 * 2**30}
    turns = {"ours": [0.3, 0.32, 0.34], "diffusers": [0.48, 0.48, 0.48]}
    kernel = {"kernel": "fmha", "operation": "a", "op_name": "b/c", "seconds": 0.03, "count": 3}
    kernels = [kernel | {"source": "omfa_jax/models/attention.py:60"}]
    sections = {
        "device": DEVICE,
        "train batch 4 remat block": {"status": "done", **STEP},
        VERSUS: {"status": "done", "turns": turns, "diffusers": other},
        "check step": {"status": "done", "passed": False, "figure": "9% apart"},
        "train batch 16 remat none": {"status": "no memory", "note": "by formula 281 GiB of 129"},
        KERNELS: {"status": "done", "busy_s": 0.3, "kernels": kernels, "sources": kernels},
    }
    plan = tmp_path / "plan.json"
    rows = [{"source": "omfa_jax/models/attention.py:60", "seconds": 0.02}]
    plan.write_text(json.dumps({"dearest": [{"source": "a.py:1", "seconds": 0.1}, *rows]}))
    table = format_report({"sections": sections}, read_roofline(plan))
    assert "bfloat16 products 800 TFLOP/s (data sheet 1000), memory 4300 GB/s" in table
    assert (
        "| train batch 4 remat block | 320 ms a step, 12.5 examples/s, MFU 50.0% (62.5% of" in table
    )
    assert "peak 57.0 GiB; traced 11 s, compiled 90 s |" in table
    assert "diffusers / ours **1.50** (1.41 to 1.60 by turn)" in table
    assert "| check step | FAILED: 9% apart |" in table
    assert "| train batch 16 remat none | no memory: by formula 281 GiB of 129 |" in table
    assert "| `fmha` | 3 | 30 | 10.0% | omfa_jax/models/attention.py:60 |" in table
    assert "| omfa_jax/models/attention.py:60 | 30 | 10.0% | 20 |" in table
    assert table.endswith("not in the profile: a.py:1")
    with pytest.raises(OmfaError, match="a list 'other'"):
        read_roofline(plan, "other")


TRACE = [
    {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
    {"ph": "M", "name": "thread_name", "pid": 1, "tid": 7, "args": {"name": "Stream #7(Compute)"}},
    {"ph": "M", "name": "thread_name", "pid": 1, "tid": 8, "args": {"name": "XLA Ops"}},
    {"ph": "M", "name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
    {"ph": "X", "name": "gemm", "pid": 1, "tid": 7, "dur": 2000, "args": {"hlo_op": "dot.1"}},
    {"ph": "X", "name": "gemm", "pid": 1, "tid": 7, "dur": 1000, "args": {"hlo_op": "dot.2"}},
    {"ph": "X", "name": "memcpy", "pid": 1, "tid": 7, "dur": 500},
    {"ph": "X", "name": "dot.1", "pid": 1, "tid": 8, "dur": 2000, "args": {"hlo_op": "dot.1"}},
    {"ph": "X", "name": "dot.1", "pid": 2, "tid": 8, "dur": 9000, "args": {"hlo_op": "dot.1"}},
]
# jaxlib 0.10's: a frame's parent is printed plus one
HLO = """HloModule jit_step

FileNames
1 "/home/me/repo/omfa_jax/models/attention.py"
2 "/venv/lib/python3.11/site-packages/flax/linen/linear.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=60 end_line=60}
2 {file_name_id=2 function_name_id=2 line=287 end_line=287}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

ENTRY %main (p: f32[2]) -> f32[2] {
  %dot.1 = f32[2] dot(%p, %p), metadata={op_name="jit(step)/to_q/dot_general" stack_frame_id=2}
  ROOT %dot.2 = f32[2] dot(%p, %p), metadata={source_file="/omfa_jax/b.py" source_line=3}
}
"""


def test_kernels_are_summed_by_name_and_by_source_line(tmp_path, monkeypatch):
    (tmp_path / "x.trace.json.gz").write_bytes(
        gzip.compress(json.dumps({"traceEvents": TRACE}).encode())
    )
    monkeypatch.setattr(kernel_profile, "_find_reader", lambda: None)
    events = kernel_profile.read_profile(tmp_path)
    sources = kernel_profile.find_sources(HLO)
    for event in events:
        event.source, event.op_name = sources.get(event.operation, ("", ""))
    rows = kernel_profile.sum_by(events, "name")
    assert [(r["kernel"], round(r["seconds"], 6), r["count"]) for r in rows] == [
        ("gemm", 0.003, 2),
        ("memcpy", 0.0005, 1),
    ]
    rows = kernel_profile.sum_by(events, "source")
    assert [(r["source"], r["op_name"]) for r in rows] == [
        ("omfa_jax/models/attention.py:60", "jit(step)/to_q/dot_general"),
        ("omfa_jax/b.py:3", ""),
        ("", ""),
    ]
    with pytest.raises(ValueError, match=r"no \*\.xplane\.pb"):
        kernel_profile.read_profile(tmp_path / "none")


def test_two_that_share_a_gpu_take_memory_as_they_need_it(tmp_path, monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    processes = Processes(tmp_path, Clock(60), tiny=False)
    alone, shared = (processes.make_environment(shares=shares) for shares in (False, True))
    assert alone["XLA_CLIENT_MEM_FRACTION"] == "0.92"
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in alone
    assert shared["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "latency_hiding" in alone["XLA_FLAGS"]
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    own = processes.make_environment(shares=True)
    assert own["XLA_CLIENT_MEM_FRACTION"] == "0.5"
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in own


def test_a_worker_answers_or_its_error_is_one_line(tmp_path):
    processes = Processes(tmp_path, Clock(120), tiny=True)
    bench = Bench(processes, {"batch": 1, "remat": "none"}, [], tiny=True, steps=1, trace=tmp_path)
    report = {}
    broken = Section(("check nothing",), 0, lambda: bench.run_once("check nothing"))
    # both at once: most of the time is Python's imports
    late = threading.Thread(target=run_sections, args=([broken], report, Clock(120), lambda: None))
    late.start()
    [(name, row)] = bench.run_device()
    late.join()
    assert name == "device" and row["platform"] == "cpu" and row["measured_bf16_flops"] > 0
    assert report["sections"]["check nothing"]["status"] == "failed"
    assert (
        "AttributeError: module 'bench.gpu_checks'" in report["sections"]["check nothing"]["note"]
    )
