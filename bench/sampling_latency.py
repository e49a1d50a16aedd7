"""Sampling latency of this package's compiled call and of the exported PyTorch script.

    PYTHONPATH=. python bench/sampling_latency.py                      # the small model, on a CPU
    PYTHONPATH=. python bench/sampling_latency.py --model DIR --dtype bfloat16      # a GPU

Both generate one try-on image from a garment, a face and a pose map: encode, 50 DDIM steps with
guidance 2.0 (both branches in one batch), and decode the person. They alternate (A B A B), each in
its own process; compilation and the first image are not counted.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.interleave import collect_seconds, run_interleaved

SIDES = ("ours", "diffusers")
SMALL_MODEL = "omfa_jax/assets/tiny"


def ours(options: argparse.Namespace) -> Callable[[], Any]:
    """Return a function that generates one image with this package."""
    from omfa_jax.core.images import to_signed
    from omfa_jax.diffusion.denoising_loop import SamplerSettings
    from omfa_jax.model_loading import load_model
    from omfa_jax.sampling.sampler import Sampler

    model = load_model(options.model)
    slots = dict(zip(("garment", "person", "face"), model.settings.slots_px, strict=True))
    given, pose = pictures(slots)
    settings = SamplerSettings(options.steps, options.guidance)
    sampler = Sampler(model, settings, dtype=options.dtype)
    images = {name: to_signed(picture)[None] for name, picture in given.items()}
    signed_pose = to_signed(pose)[None]
    return lambda: sampler("try_on", images, signed_pose, seed=0)


def diffusers(options: argparse.Namespace) -> Callable[[], Any]:
    """Return a function that generates one image in PyTorch."""
    import torch

    from omfa_jax.assets.omfa_torch import Model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model(Path(options.model), device, options.dtype)
    if device == "cuda":
        model.unet = torch.compile(model.unet)
    given, pose = pictures(model.slots_px)
    return lambda: model.generate(
        "try_on", given, pose, steps=options.steps, guidance=options.guidance
    )


def pictures(slots: dict[str, tuple[int, int]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return noise as garment, face and pose map, uint8, at the slots' sizes."""
    rng = np.random.default_rng(0)

    def noise(name: str) -> np.ndarray:
        return rng.integers(0, 256, (*slots[name], 3), np.uint8)

    return {"garment": noise("garment"), "face": noise("face")}, noise("person")


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=SMALL_MODEL, help="an exported folder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--count", type=int, default=3, help="timed images per turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        make = {"ours": ours, "diffusers": diffusers}[options.side](options)
        seconds = []
        for _ in range(options.count + 1):
            start = time.perf_counter()
            make()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds[1:]}))
        return
    turns = run_interleaved(__file__, SIDES, sys.argv[1:], options.rounds)
    median = {side: statistics.median(collect_seconds(turns[side])) for side in SIDES}
    print(f"\n{options.model}, {options.dtype}, {options.steps} steps, guidance {options.guidance}")
    for side in SIDES:
        print(f"{side:10} {median[side]:.3f} s per image")
    print(f"diffusers / ours: {median['diffusers'] / median['ours']:.2f}")


if __name__ == "__main__":
    main()
