"""Speed and peak memory of `omfa eval` on 768x1024 images, and resuming after SIGKILL.

    PYTHONPATH=. nice python bench/evaluate.py --pairs 200 2000 --metrics ssim,psnr,clip_fid

The images are generated: a few distinct ones, of which each file is a variant, as JPEG of quality
95. The network is a small random CLIP, so no pretrained weights are needed. Prints the speed and
the peak resident memory for each number of pairs. Then a run with the smallest number is killed
after a third of its time and restarted.
"""

import argparse
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from omfa_jax.core.images import encode_jpeg

HEIGHT, WIDTH, DISTINCT = 1024, 768, 8
TESTS = Path(__file__).parents[1] / "tests"
# `omfa eval`, also on machines whose torchvision does not match torch
PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from torchvision_shim import import_torchvision
import_torchvision()
from omfa_jax.cli.main import main
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--metrics", default="ssim,psnr,clip_fid")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-kill", action="store_true", help="skip the kill and the restart")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        # in another process: a child's peak memory starts at its parent's
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            networks = pool.submit(write_network, root / "networks").result()
        for count in options.pairs:
            folder = make_folder(root / str(count), count)
            started, before = time.monotonic(), cpu_seconds()
            run(folder, networks, options)
            spent = time.monotonic() - started
            cpu = cpu_seconds() - before
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(
                f"{count} pairs: {count / spent:.2f} pairs/s by the clock, {cpu / count:.2f} s of"
                f" one core a pair, peak of the largest run so far {peak:.0f} MiB",
                flush=True,
            )
        if not options.no_kill:
            resume(root / str(min(options.pairs)), networks, options, spent / count)


def resume(folder: Path, networks: Path, options: argparse.Namespace, pair_s: float) -> None:
    """Kill a run after about a third of the pairs; the second run must compute only the rest."""
    whole = json.loads((folder / "scores.json").read_text())
    count = whole["counts"]["pairs"]
    process = subprocess.Popen(command(folder, networks, options, "resumed.json"))
    cache = folder / "resumed.json.cache"
    while cached(cache) < count // 3:
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed: give more --pairs")
        time.sleep(pair_s / 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = cached(cache)
    started = time.monotonic()
    run(folder, networks, options, "resumed.json")
    resumed = json.loads((folder / "resumed.json").read_text())
    same = resumed["metrics"] == whole["metrics"] and resumed["per_image"] == whole["per_image"]
    print(
        f"killed (-9) with {kept} of {count} pairs kept; the second run took"
        f" {time.monotonic() - started:.0f} s and scores are {'equal' if same else 'NOT EQUAL'}"
    )


def cached(cache: Path) -> int:
    """Return the number of pairs whose results are on disk for every metric."""
    counts = []
    for space in cache.glob("*"):
        with_keys = [np.load(path) for path in space.glob("*.npz") if not path.name.startswith(".")]
        counts.append(sum(len(chunk["keys"]) for chunk in with_keys))
    return min(counts, default=0)


def command(
    folder: Path, networks: Path, options: argparse.Namespace, out: str = "scores.json"
) -> list[str]:
    flags = {
        "--pred": folder / "pred",
        "--gt": folder / "gt",
        "--out": folder / out,
        "--protocol": "omfa",
        "--metric-weights": networks,
        "--metrics": options.metrics,
        "--workers": options.workers,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return [sys.executable, "-c", PROGRAM, "eval", *words]


def run(
    folder: Path, networks: Path, options: argparse.Namespace, out: str = "scores.json"
) -> None:
    subprocess.run(command(folder, networks, options, out), check=True)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_folder(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    bases = []
    for _ in range(DISTINCT):
        coarse = random.integers(0, 256, (HEIGHT // 64, WIDTH // 64, 3), dtype=np.uint8)
        smooth = np.array(Image.fromarray(coarse).resize((WIDTH, HEIGHT), 3)).astype(np.float32)
        bases.append(smooth + random.normal(0, 4, smooth.shape))
    for name, noise in (("gt", 0), ("pred", 8)):
        (folder / name).mkdir(parents=True)
        rough = noise * random.normal(size=bases[0].shape)
        made = [np.clip(base + rough, 0, 255).astype(np.uint8) for base in bases]
        for index in range(count):
            picture = made[index % DISTINCT].copy()
            picture[:16, :16] = random.integers(0, 256, (16, 16, 3))
            (folder / name / f"{index:05}.jpg").write_bytes(encode_jpeg(picture))
    return folder


def write_network(networks: Path) -> Path:
    exec(PROGRAM.rsplit("from omfa", 1)[0])
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "projection_dim": 32}
    config = transformers.CLIPConfig(
        text_config={**sizes, **heads, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**sizes, **heads, "image_size": 224, "patch_size": 32},
        projection_dim=32,
    )
    transformers.CLIPModel(config).save_pretrained(networks / "clip-vit-base-patch32")
    return networks


if __name__ == "__main__":
    main()
