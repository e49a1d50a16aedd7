"""Speed of the training step and of diffusers' in PyTorch: same network, batch, dtype, canvas.

    PYTHONPATH=. python bench/train_step.py                       # a small preset, for a CPU
    PYTHONPATH=. python bench/train_step.py --config configs/vitonhd.py --batch 8   # a GPU

The two alternate (A B A B) on the same machine, each run in its own process, so that neither finds
memory taken by the other. Batches are latents on the device: data loading, sample images and saves
are left out on both sides, and so is the EMA, which diffusers' training script does not have.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench.interleave import collect_seconds, run_interleaved
from omfa_jax.cli import config_lib
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAES, UNetConfig
from omfa_jax.parallel.hardware import find_chip
from omfa_jax.planning.flops import count_unet_flops
from omfa_jax.train.network import make_unet_config
from omfa_jax.train.settings import TrainSettings
from omfa_jax.weights.text_encoders import TEXT_TOKENS

SIDES = ("ours", "diffusers")
# a 4 M-parameter UNet of SDXL's shape on three components of 32x24 latents
SMALL = (
    "--config.model.unet=xs",
    "--config.model.vae=xs",
    "--config.canvas.garment=(256, 192)",
    "--config.canvas.person=(256, 192)",
    "--config.canvas.face=(256, 192)",
    "--config.train.compute_dtype=float32",
    "--config.train.remat=none",
)


@dataclass(frozen=True)
class Setting:
    """The job that both sides run."""

    unet: UNetConfig
    diffusion: DiffusionSettings
    train: TrainSettings

    @property
    def step_flops(self) -> float:
        """FLOPs of the forward and backward pass of a batch, without recomputation."""
        height, width, _ = self.diffusion.canvas.shape
        count = count_unet_flops(self.unet, height, width, text_tokens=TEXT_TOKENS)
        return float(count.total.step * self.train.batch_size)


def setting(options: argparse.Namespace) -> Setting:
    """Return the job that the flags describe, without EMA."""
    overrides = [*options.overrides, "--config.train.ema_decay=0.0"]
    overrides = [*(() if options.config else SMALL), *overrides]
    if options.batch:
        overrides.append(f"--config.train.batch_size={options.batch}")
    config = config_lib.load_config(options.config or "configs/base.py", overrides)
    diffusion = config_lib.make_diffusion_settings(config, VAES[config.model.vae])
    unet = make_unet_config(config.model.unet, diffusion)
    return Setting(unet, diffusion, config_lib.make_train_settings(config))


def ours(it: Setting, steps: int) -> dict[str, Any]:
    """Train `steps` steps with this package; return their times and the peak memory."""
    import jax
    import numpy as np

    from omfa_jax.models import init_unet
    from omfa_jax.parallel.mesh import MeshSettings, make_mesh, make_replicated_sharding
    from omfa_jax.train.aot_step import make_aot_step
    from omfa_jax.train.optimizer import make_optimizer
    from omfa_jax.train.state import init_sharded_state

    # one device on both sides
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    ahead = make_aot_step(it.diffusion, it.unet, it.train, mesh, text_tokens=TEXT_TOKENS)
    optimizer = make_optimizer(it.train.optimizer, it.train.steps)
    state = init_sharded_state(
        lambda: init_unet(it.unet, jax.random.key(0)), optimizer, 0.0, ahead.shardings
    )
    rng = np.random.default_rng(0)

    def drawn(leaf):
        if np.issubdtype(leaf.dtype, np.floating):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        # the tasks in turn; every example has a pose
        return (np.arange(leaf.shape[0]) % len(it.diffusion.tasks) + (leaf.dtype == bool)).astype(
            leaf.dtype
        )

    frozen, batch = jax.tree.map(drawn, (ahead.constants, ahead.batch))
    frozen, batch, root = jax.device_put(
        (frozen, batch, jax.random.key(0)), make_replicated_sharding(mesh)
    )
    step = ahead.step
    times = []
    for index in range(steps + 2):
        begin = time.perf_counter()
        state, metrics = step(state, frozen, batch, root)
        jax.block_until_ready((state, metrics))
        if index >= 2:
            times.append(time.perf_counter() - begin)
    stats = jax.devices()[0].memory_stats() or {}
    device = jax.devices()[0].device_kind
    return {"seconds": times, "peak_bytes": stats.get("peak_bytes_in_use"), "device": device}


def diffusers(it: Setting, steps: int) -> dict[str, Any]:
    """Train `steps` steps in PyTorch; return their times and the peak memory."""
    from bench.torch_step import TorchStep

    trained = TorchStep(it.unet, it.diffusion, it.train, TEXT_TOKENS)
    return {"seconds": trained.seconds(steps), "peak_bytes": trained.peak_bytes()}


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="", help="config file (default: a small preset)")
    parser.add_argument("--batch", type=int, default=0, help="batch size (default: the config's)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps per turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options, options.overrides = parser.parse_known_args()
    it = setting(options)
    if options.side:
        sides = {"ours": ours, "diffusers": diffusers}
        print(json.dumps(sides[options.side](it, options.steps)))
        return
    report(it, run_interleaved(__file__, SIDES, sys.argv[1:], options.rounds))


def report(it: Setting, turns: dict[str, list[dict[str, Any]]]) -> None:
    """Print each side's median, rate and memory, and the ratio."""
    device = turns["ours"][0]["device"]
    chip = find_chip(device)
    height, width, _ = it.diffusion.canvas.shape
    print(
        f"\n{device}; canvas {height}x{width}, batch {it.train.batch_size},"
        f" {it.train.compute_dtype}, remat {it.train.remat}, {it.step_flops / 1e12:.3f} TFLOP"
    )
    median = {}
    for side, runs in turns.items():
        median[side] = statistics.median(collect_seconds(runs))
        rate = it.step_flops / median[side] / 1e12
        share = f", MFU {100e12 * rate / chip.bf16_flops:.1f}%" if chip else ""
        memory = runs[0]["peak_bytes"]
        held = f", peak {memory / 1e9:.1f} GB" if memory else ""
        print(f"{side:10} {median[side]:.3f} s per step, {rate:.3f} TFLOP/s{share}{held}")
    print(f"diffusers / ours: {median['diffusers'] / median['ours']:.2f}")


if __name__ == "__main__":
    main()
