"""Compare the roofline's dearest operations with a profile's, on this CPU, for a small UNet.

    PYTHONPATH=. python bench/roofline_profile.py [--preset tiny] [--size 32 60] [--batch 2]

Peak and bandwidth are measured first: a float32 product, and a sum of arrays that no cache holds.
Both lists are of forward and gradient. Prints the ten dearest of both, how many the lists share,
and Spearman's rank correlation over the profile's ten.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
from scipy.stats import spearmanr

from omfa_jax.models import UNETS, apply_unet, get_unet_config, init_unet
from omfa_jax.planning.roofline import compute_roofline
from omfa_jax.planning.roofline_machine import Machine
from omfa_jax.weights.text_encoders import TEXT_TOKENS

RUNS = 5


def main() -> None:
    """Print both lists and their agreement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", choices=UNETS)
    parser.add_argument("--size", type=int, nargs=2, default=(32, 60), help="latent canvas")
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    machine = measure_machine()
    print(f"{machine.bf16_flops / 1e9:.0f} GFLOP/s, {machine.memory_bandwidth / 1e9:.1f} GB/s")
    compiled, arguments = compile_gradient(options.preset, options.size, options.batch)
    roofline = compute_roofline(compiled.as_text(), machine)
    print(*roofline.notes, sep="\n")
    expected: Counter[str] = Counter()
    lines = {}
    for one in roofline.operations:
        expected[one.name] += one.visible_seconds
        lines[one.name] = f"{one.part}: {one.line}"
    jax.block_until_ready(compiled(*arguments))
    measured = profile(lambda: jax.block_until_ready(compiled(*arguments)), set(expected))
    whole = sum(measured.values())
    print(f"profile {whole * 1e3:.1f} ms in its operations, roofline {roofline.seconds * 1e3:.1f}")
    compare("operation", measured, expected, lines)
    by_line: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for name, seconds in measured.items():
        by_line[0][lines[name]] += seconds
        by_line[1][lines[name]] += expected[name]
    compare("source line", *by_line, {})


def compare(
    kind: str, measured: Counter[str], expected: Counter[str], lines: dict[str, str]
) -> None:
    """Print the profile's ten dearest beside the roofline, and how far the orders agree."""
    dearest = [name for name, _ in measured.most_common(10)]
    places = {name: place for place, (name, _) in enumerate(expected.most_common(), 1)}
    print(f"| profile, ms | roofline, ms | its place | {kind} |\n| --- | --- | --- | --- |")
    for name in dearest:
        print(
            f"| {measured[name] * 1e3:.2f} | {expected[name] * 1e3:.2f} | {places[name]}"
            f" | {name} {lines.get(name, '')} |"
        )
    shared = sum(places[name] <= 10 for name in dearest)
    order = correlate([measured[n] for n in dearest], [expected[n] for n in dearest])
    every = correlate(list(measured.values()), [expected[name] for name in measured])
    print(
        f"{shared} of the ten dearest are the roofline's; Spearman {order:.2f} over the ten,"
        f" {every:.2f} over all {len(measured)}; the profile's ten take"
        f" {sum(measured[n] for n in dearest) / measured.total():.0%}"
    )


def measure_machine() -> Machine:
    """Return this machine's float32 FLOP/s and bytes/s, the best of some runs."""
    side, length = 2048, 2**25
    a, b = jnp.ones((side, side)), jnp.ones(length)
    product, total = jax.jit(jnp.matmul), jax.jit(lambda x, y: x + y)
    return Machine(
        2 * side**3 / time_best(lambda: product(a, a)), 12 * length / time_best(lambda: total(b, b))
    )


def time_best(run) -> float:
    """Return the seconds of the fastest of some calls."""
    run().block_until_ready()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run().block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)


def compile_gradient(preset: str, size: tuple[int, int], batch: int):
    """Return the compiled loss and gradient of a UNet, and its arguments."""
    config = get_unet_config(preset, in_channels=9, out_channels=4)
    params = init_unet(config, jax.random.key(0))
    inputs = (
        jnp.ones((batch, *size, 9)),
        jnp.ones((batch,), jnp.int32),
        jnp.ones((batch, TEXT_TOKENS, config.context_dim)),
        jnp.ones((batch, config.pooled_dim)),
        jnp.ones((batch, 6)),
    )

    def loss(params, *inputs):
        return jnp.mean(apply_unet(config, params, *inputs) ** 2)

    arguments = (params, *inputs)
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile(), arguments


def profile(run, names: set[str]) -> Counter[str]:
    """Return seconds of one run by operation, the mean of some profiled runs."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=False):
            for _ in range(RUNS):
                run()
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    found: Counter[str] = Counter()
    for event in events:
        name = event.get("args", {}).get("hlo_op", event.get("name"))
        if event.get("ph") == "X" and name in names:
            found[name] += event["dur"] / 1e6 / RUNS
    return found


def correlate(a: list[float], b: list[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""
    return float(spearmanr(a, b).statistic)


if __name__ == "__main__":
    main()
