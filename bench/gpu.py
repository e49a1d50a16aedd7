"""Full SDXL on one GPU in one call: checks, training step, diffusers, sampling, dearest kernels.

    python bench/gpu.py --out runs/gpu                  # under ten minutes on an H200
    python bench/gpu.py --out runs/gpu                  # goes on where the call before stopped
    python bench/gpu.py --out runs/tiny --tiny          # minutes on a CPU: a rehearsal

It needs jax[cuda] from 0.10 with flax, optax, orbax-checkpoint, safetensors and jaxtyping, and
for the other side torch and diffusers (anywhere on PYTHONPATH); it downloads nothing. Sections run
by worth until `--minutes` are over. Each is saved in OUT/gpu.json (and OUT/gpu.md, a table) as
soon as it is measured, and whatever fails, or goes out of memory, becomes one line there. A later
call with the same --out measures what is missing; compiled programs are kept in OUT/cache.

The two sides of a comparison stay compiled in two processes, and take turns on the GPU (A B A B).
A turn is a run of steps without waiting between them. Our step has an EMA, diffusers' has none.
When all is measured, `--then COMMAND` runs for what is left of the time: the small model's
training, say (`--then "omfa demo --workdir runs/demo"`). `--roofline FILE`, written by
`omfa plan --compile` for h200-1, puts the compiler's list beside the measured one.
"""

import argparse
import dataclasses
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.gpu_processes import Clock, Processes
from bench.gpu_report import format_report, load_report, read_roofline, save_report
from bench.gpu_sections import Bench, run_sections
from omfa_jax.core.errors import OmfaError


def make_bench(options: argparse.Namespace, clock: Clock) -> Bench:
    """Return the sections for the command line's options."""
    from bench.gpu_settings import CASES, FIRST, TINY_CASES, TINY_FIRST

    first, cases = (TINY_FIRST, TINY_CASES) if options.tiny else (FIRST, CASES)
    return Bench(
        Processes(options.out, clock, tiny=options.tiny),
        dataclasses.asdict(first),
        [dataclasses.asdict(case) for case in cases],
        tiny=options.tiny,
        steps=min(options.steps, 2) if options.tiny else options.steps,
        trace=(options.out / "trace").absolute(),
    )


def forget(report: dict[str, Any], names: list[str]) -> None:
    """Drop the rows whose names contain one of `names`, to be measured again."""
    for name in [n for n in report["sections"] if any(part in n for part in names)]:
        del report["sections"][name]


def run_then(command: str, clock: Clock) -> None:
    """Run a command for what is left of the time; SIGTERM ends it, as it ends `omfa train`."""
    if clock.left() < 5:
        print(f"--then: no time is left for {command}")
        return
    print(f"--then ({clock.left():.0f} s): {command}", flush=True)
    process = subprocess.Popen(shlex.split(command))
    try:
        print(f"--then: exit status {process.wait(timeout=clock.left() - 4)}")
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(timeout=4)
        except subprocess.TimeoutExpired:
            process.kill()
        print("--then: ended when the time was over")


def main() -> int:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--out", type=Path, default=Path("runs/gpu"), help=f"folder of the report {default}")
    add("--minutes", type=float, default=9.5, help=f"when to stop {default}")
    add("--steps", type=int, default=8, help=f"training steps in a turn {default}")
    add("--tiny", action="store_true", help="the smallest networks, on a CPU")
    add("--again", nargs="+", default=[], metavar="WORD", help="measure rows with WORD again")
    add("--roofline", type=Path, help="JSON of `omfa plan --compile`, to compare the kernels with")
    add("--then", default="", metavar="COMMAND", help="run this for what is left of the time")
    options = parser.parse_args()
    clock = Clock(60 * options.minutes)
    # so that workers are ended by their context managers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        roofline = read_roofline(options.roofline) if options.roofline else []
        report = load_report(options.out, tiny=options.tiny)
        forget(report, options.again)
        bench = make_bench(options, clock)

        def save() -> None:
            save_report(options.out, report, roofline)

        run_sections(bench.list_sections(), report, clock, save)
    except OmfaError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    print("\n" + format_report(report, roofline))
    print(f"\n{options.out / 'gpu.json'}, {options.out / 'gpu.md'}", flush=True)
    rows = report["sections"].values()
    missing = [row for row in rows if row["status"] in ("left", "failed")]
    if missing:
        print(f"{len(missing)} rows are missing: call it again with the same --out")
    elif options.then:
        run_then(options.then, clock)
    return int(any(row.get("passed") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
