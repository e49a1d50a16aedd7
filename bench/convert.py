"""Round trip of a random SDXL through convert_weights.py: exactness, time and memory.

    PYTHONPATH=. python bench/convert.py --workdir DIR

creates a UNet and a VAE in diffusers' form, imports and exports them, and compares every tensor and
the networks' outputs. At full size it takes 32 GB of disk and 14 GB of memory. DIR must be empty;
its contents are deleted along the way. Memory means resident memory that no file backs.
"""

import argparse
import contextlib
import dataclasses
import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import convert_weights
from omfa_jax.core.errors import OmfaError
from omfa_jax.models import (
    VAES,
    UNetConfig,
    VAEConfig,
    get_unet_config,
    get_unet_shapes,
    get_vae_config,
)
from omfa_jax.weights import conv_in, diffusers_configs, safetensors_stream, tensor_names
from omfa_jax.weights.model_description import ModelDescription, write_description
from omfa_jax.weights.tensor_files import STEM
from omfa_jax.weights.torch_comparison import compare_with_torch
from omfa_jax.weights.torch_tensors import LazyTensors, open_model

TOLERANCE = 5e-6
MEMORY_FACTOR, TIME_FACTOR = 1.3, 3.0
# layers that write to the residual stream: drawn small, so that the norms' epsilons matter
QUIET = ("conv_in", "conv2", "conv_shortcut", "samplers", "proj_in", "proj_out")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One row of the table; `bound` is "" if the figure is only informative."""

    what: str
    figure: str
    bound: str = ""
    holds: bool = True


@dataclass
class Cost:
    """Cost of a stage: seconds until its files are on disk, and its peak memory."""

    seconds: float
    peak_bytes: int


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--preset", default="sdxl", help="UNet preset (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.workdir.exists() and any(options.workdir.iterdir()):
        raise OmfaError(f"{options.workdir} is not empty and would be deleted: change --workdir")
    unet_config = get_unet_config(options.preset)
    # s, m and l share SDXL's VAE
    vae_config = get_vae_config(options.preset if options.preset in VAES else "sdxl")
    rows = []
    for row in bench(unet_config, vae_config, options.workdir):
        print(f"# {row.what}: {row.figure}", file=sys.stderr, flush=True)
        rows.append(row)
    print(f"| {options.preset}: what | figure | bound | |\n| --- | --- | --- | --- |")
    for row in rows:
        mark = ("holds" if row.holds else "FAILS") if row.bound else ""
        print(f"| {row.what} | {row.figure} | {row.bound} | {mark} |")
    return 0 if all(row.holds for row in rows) else 1


def bench(unet_config: UNetConfig, vae_config: VAEConfig, workdir: Path) -> Iterator[Row]:
    """Yield the table's rows as they are measured."""
    source, imported, exported = (workdir / name for name in ("source", "imported", "exported"))
    workdir.mkdir(parents=True, exist_ok=True)
    shapes = {"unet": torch_shapes(unet_config), "vae": torch_shapes(vae_config)}
    sizes = {part: sum(map(volume, found.values())) for part, found in shapes.items()}
    counts = {part: len(found) for part, found in shapes.items()}
    expected = dict(counts)
    if (unet_config, vae_config) == (UNetConfig(), VAEConfig()):
        expected = {"unet": 1680, "vae": 248}
        yield count_row("UNet parameters", sizes["unet"], 2_567_463_684)
    write_description(source, ModelDescription(unet_config, vae_config, {}, None, None))
    for part, found in shapes.items():
        path = source / part / f"{STEM}.safetensors"
        safetensors_stream.write_tensor_stream(
            path, found, "fp32", random_tensors(found), {"format": "pt"}
        )
    for width in (9, 13):
        yield from variant_rows(dataclasses.replace(unet_config, in_channels=width), counts["unet"])

    copied = measured(lambda: shutil.copytree(source, workdir / "copy"))
    shutil.rmtree(workdir / "copy")
    total = 4 * sum(sizes.values())
    yield Row("plain copy", f"{copied.seconds:.1f} s for {total / 1e9:.3f} GB")
    most = 4 * max(sizes.values())
    cost = measured(lambda: command("import", source, "--out", imported))
    yield from cost_rows("import", cost, copied, most)
    cost = measured(lambda: command("export", imported, "--out", exported))
    yield from cost_rows("export", cost, copied, most)
    for part in counts:
        yield count_row(f"{part} tensors in the source", counts[part], expected[part])
        equal = equal_tensors(open_model(source / part), open_model(exported / part))
        yield count_row(f"{part} tensors bit-equal after export", equal, expected[part])
    shutil.rmtree(exported)
    gc.collect()

    differences = []
    cost = measured(lambda: differences.extend(compare_with_torch(imported, source)))
    for found in differences:
        agrees = found.relative_l2 <= TOLERANCE
        more = f"max abs {found.max_abs:.2e}; PyTorch {found.torch_float32:.2e}"
        figure = f"{found.relative_l2:.2e} ({more})"
        yield Row(f"{found.component}: relative L2", figure, f"<= {TOLERANCE:g}", agrees)
    figure = f"{cost.seconds:.0f} s, {cost.peak_bytes / 1e9:.2f} GB"
    yield Row("both forward passes: time, peak memory", figure)
    shutil.rmtree(workdir)


def torch_shapes(config: UNetConfig | VAEConfig) -> Shapes:
    """Return the state dict's names and shapes of diffusers' own network, without its weights."""
    import diffusers
    import torch

    with torch.device("meta"):
        if isinstance(config, UNetConfig):
            fields = diffusers_configs.make_diffusers_unet_config(config)
            model: Any = diffusers.UNet2DConditionModel.from_config(fields)
        else:
            model = diffusers.AutoencoderKL.from_config(
                diffusers_configs.make_diffusers_vae_config(config)
            )
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def random_tensors(shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield random tensors, one at a time, with norms away from 1 and 0."""
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape, np.float32)
        loudness = np.float32(0.02 if any(part in name for part in QUIET) else 0.6)
        if len(shape) > 1:
            noise *= loudness / np.sqrt(np.float32(volume(shape[1:])))
        elif name.endswith("weight"):
            noise = 1 + np.float32(0.3) * noise
        else:
            noise *= np.float32(0.2) * loudness
        yield name, noise


def variant_rows(config: UNetConfig, count: int) -> Iterator[Row]:
    """Yield the rows for another width of conv_in: names, shapes, channels and the round trip."""
    shapes = torch_shapes(config)
    component = tensor_names.Component(
        get_unet_shapes(config), LazyTensors("diffusers", shapes, np.zeros)
    )
    faults = tensor_names.match_keys(component).counts
    what = f"{config.in_channels} channels: tensors that fit diffusers'"
    yield count_row(what, 0 if faults else len(component.rows), count)
    found = conv_in.infer_source_inputs(config.in_channels, config.out_channels)
    row = next(row for row in component.rows if row.path == conv_in.KERNEL_PATH)
    weight = np.random.default_rng(1).standard_normal(row.shape, np.float32)
    kernel = row.from_torch(weight)
    if found is None:
        back, rule = row.to_torch(kernel), "unknown"
    else:
        back = row.to_torch(conv_in.ChannelMap(found, found.groups).apply(kernel))
        rule = conv_in.format_groups(found.groups)
    config_back = diffusers_configs.parse_diffusers_unet_config(
        diffusers_configs.make_diffusers_unet_config(config), "config"
    )
    same = np.array_equal(back, weight) and config_back == config
    yield Row(f"{config.in_channels} channels: conv_in back bit-equal", rule, "yes", same)


def count_row(what: str, came: int, expected: int) -> Row:
    """Return the row of a count that must equal `expected`."""
    return Row(what, f"{came:,}", f"{expected:,}", came == expected)


def cost_rows(what: str, cost: Cost, copied: Cost, most: int) -> Iterator[Row]:
    """Yield the time relative to a plain copy, and the peak memory to the largest network."""
    times = cost.seconds / copied.seconds
    figure = f"{cost.seconds:.1f} s, {times:.2f} times the copy"
    yield Row(f"{what}: time", figure, f"<= {TIME_FACTOR:g} times", times <= TIME_FACTOR)
    bound = MEMORY_FACTOR * most
    figure = f"{cost.peak_bytes / 1e9:.2f} GB"
    holds = cost.peak_bytes <= bound
    yield Row(f"{what}: peak memory", figure, f"<= {bound / 1e9:.2f} GB", holds)


def equal_tensors(a: LazyTensors, b: LazyTensors) -> int:
    """Return how many tensors are bit-equal in both; 0 if the names differ."""
    if a.shapes != b.shapes:
        return 0
    return sum(a.read(key).tobytes() == b.read(key).tobytes() for key in a.shapes)


def command(*arguments: object) -> None:
    """Run convert_weights.py in this process; a failure ends the benchmark."""
    with contextlib.redirect_stdout(sys.stderr):
        status = convert_weights.main(list(map(str, arguments)))
    if status:
        raise SystemExit(f"convert_weights.py {arguments[0]} failed")


def measured(run: Callable[[], object]) -> Cost:
    """Run `work` and sync the disk; sample this process's memory 50 times per second meanwhile."""
    peak, done = anonymous_bytes(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        run()
        os.sync()
        return Cost(time.perf_counter() - start, peak)
    finally:
        done.set()
        watcher.join()


def anonymous_bytes() -> int:
    """Return the resident memory of this process that no file backs (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this benchmark reads /proc, which only Linux has")


def volume(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    return int(np.prod(shape, dtype=np.int64))


if __name__ == "__main__":
    sys.exit(main())
