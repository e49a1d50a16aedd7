"""maxdiffusion's SDXL training step and ours by the same compiler, for TPUs that are not attached.

    JAX_PLATFORMS=cpu python bench/peer_compiled.py --maxdiffusion CHECKOUT --out runs/peer

Both at 1024x1024 on stored latents, the same batch, mesh, dtypes, AdamW, no EMA and no clipping.
Needs libtpu, and for maxdiffusion its packages except tensorflow and datasets. Each program is
compiled in a process of its own, its figures are saved in OUT/peer.json as soon as it is done, and
a later call compiles what is missing. OUT/*.hlo.gz are the optimised programs, for a roofline:
`roofline_s` and `moved_bytes` of a row stay empty until something computes them from those.
"""

import argparse
import contextlib
import dataclasses
import gzip
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omfa_jax.core.atomic_files import atomic_write

TOPOLOGIES = ("v5e-256", "v5p-128")
# attention kernels of maxdiffusion, and remat policies of ours
SIDES = ("maxdiffusion flash", "ours none", "ours block", "maxdiffusion dot_product")
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")


def lower_ours(devices: list[Any], remat: str, options: argparse.Namespace) -> Any:
    """Return our step on a 128x128 canvas of three slots, lowered for `devices`."""
    from bench.gpu_settings import Case, make_diffusion, make_train
    from omfa_jax.parallel.mesh import MeshSettings, make_mesh
    from omfa_jax.train.aot_step import make_aot_step
    from omfa_jax.train.network import make_unet_config

    slots_px = ((1024, 480), (1024, 480), (1024, 64))
    diffusion = dataclasses.replace(make_diffusion(tiny=False), slots_px=slots_px)
    train = make_train(Case(options.batch_per_chip * len(devices), remat))
    optimizer = dataclasses.replace(train.optimizer, clip_norm=0.0)
    train = dataclasses.replace(train, ema_decay=0.0, optimizer=optimizer)
    unet = make_unet_config("sdxl", diffusion)
    mesh = make_mesh(MeshSettings(data=-1, fsdp=options.fsdp), devices)
    return make_aot_step(diffusion, unet, train, mesh).lower()


def compile_side(side: str, topology: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the compiler's figures of one side's step; save its program."""
    import jax

    from omfa_jax.parallel.topology import parse_topology
    from omfa_jax.planning.aot import compile_at_least_effort, describe_devices
    from omfa_jax.planning.hlo_collectives import parse_collectives

    devices = describe_devices(parse_topology(topology))
    name, variant = side.split()
    start = time.perf_counter()
    if name == "ours":
        lowered = lower_ours(devices, variant, options)
    else:
        from bench.peer_maxdiffusion import lower_step

        lowered = lower_step(
            options.maxdiffusion,
            devices,
            fsdp=options.fsdp,
            batch_per_chip=options.batch_per_chip,
            attention=variant,
        )
    traced = time.perf_counter()
    with contextlib.nullcontext() if options.full_effort else compile_at_least_effort():
        compiled = lowered.compile()
    seconds = time.perf_counter() - traced
    text = compiled.as_text() or ""
    with atomic_write(options.out / f"{side}-{topology}.hlo.gz".replace(" ", "-")) as temporary:
        temporary.write_bytes(gzip.compress(text.encode()))
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis() or {}
    return {
        "chips": len(devices),
        "batch": options.batch_per_chip * len(devices),
        "trace_s": traced - start,
        "compile_s": seconds,
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "collectives": {
            kind: [traffic.runs, traffic.received_bytes]
            for kind, traffic in parse_collectives(text).items()
        },
        # a loop's body counts once in these
        "xla_flops": cost.get("flops"),
        "xla_bytes": cost.get("bytes accessed"),
        "moved_bytes": None,
        "roofline_s": None,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "jax": jax.__version__,
    }


def run_missing(options: argparse.Namespace) -> dict[str, Any]:
    """Compile what `peer.json` lacks, one process each; return all rows."""
    path = options.out / "peer.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for topology in options.topology:
        for side in options.side:
            name = f"{side}, {topology}"
            if "peak_bytes" in rows.get(name, {}):
                continue
            print(name, flush=True)
            flags = [f"--only={side}", "--topology", topology]
            command = [sys.executable, __file__, *sys.argv[1:], *flags]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                words = [line for line in done.stderr.splitlines() if "rror" in line]
                rows[name] = {"failure": (words or ["it said nothing"])[-1][:400]}
                (options.out / f"{name}.log").write_text(done.stderr)
            else:
                rows[name] = json.loads(done.stdout.splitlines()[-1])
            print(rows[name], flush=True)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def format_table(rows: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    gib = 2**30
    lines = [
        "| step | state, GiB a chip | temporaries | peak"
        " | received, GB: gather / scatter / reduce / other | collectives | moved, GB"
        " | roofline, s | seconds to trace, compile |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if "failure" in row:
            lines.append(f"| {name} | {row['failure'].replace('|', '/')} | | | | | | | |")
            continue
        kinds = ("all-gather", "reduce-scatter", "all-reduce")
        moved = {kind: total for kind, (_, total) in row["collectives"].items()}
        parts = [moved.pop(kind, 0) for kind in kinds] + [sum(moved.values())]
        runs = sum(count for count, _ in row["collectives"].values())
        touched, bound = row["moved_bytes"], row["roofline_s"]
        lines.append(
            f"| {name} | {row['state_bytes'] / gib:.2f} | {row['temporary_bytes'] / gib:.2f} |"
            f" {row['peak_bytes'] / gib:.2f} |"
            f" {' / '.join(f'{part / 1e9:.2f}' for part in parts)} | {runs} |"
            f" {'' if touched is None else f'{touched / 1e9:.0f}'} |"
            f" {'' if bound is None else f'{bound:.3g}'} |"
            f" {row['trace_s']:.0f}, {row['compile_s']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Compile what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--maxdiffusion", type=Path, required=True, metavar="CHECKOUT", help="its git checkout")
    add("--out", type=Path, default=Path("runs/peer"), help=f"folder of the figures {default}")
    add("--topology", nargs="+", default=TOPOLOGIES, help=f"for which TPUs {default}")
    add("--side", nargs="+", default=SIDES, choices=SIDES, help="steps to compile (default: all)")
    add("--fsdp", type=int, default=16, help=f"chips over which both shard weights {default}")
    add("--batch-per-chip", type=int, default=1, help=f"examples on each chip {default}")
    add("--full-effort", action="store_true", help="XLA's default effort: several times slower")
    add("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        print(json.dumps(compile_side(options.only, options.topology[0], options)))
        return 0
    print("\n" + format_table(run_missing(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
